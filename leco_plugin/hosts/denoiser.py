"""A model that a host has loaded, behind the Denoiser contract: what is the same in every host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from leco_plugin.config.families import Distilled
from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.contracts import Denoiser, Network, PredictionType, Sampler, TextRows, TextTable
from leco_plugin.core.noise import diffusion_snr
from leco_plugin.core.walk import guided
from leco_plugin.engine.measure import Course
from leco_plugin.engine.neighbours import nothing_near, preserved
from leco_plugin.engine.row_check import rows_differ
from leco_plugin.errors import ConfigError
from leco_plugin.families.samplers import FlowSampler, cumulative_alphas, make_sampler, shifted_sigmas, size_shift
from leco_plugin.families.tokens import similar_words


@dataclass(frozen=True)
class Texts:
    """What the host's text encoders said of each prompt, one at a time and in the host's own kind."""

    each: Sequence[Any]

    def rows(self, prompts: Sequence[int]) -> Texts:
        """Those of a batch whose row i has the prompt number ``prompts[i]``."""
        return Texts([self.each[prompt] for prompt in prompts])


class HostedDenoiser(ABC):
    """Asks row by row where a model mixes the rows of one call, and samples as the host does."""

    guide = staticmethod(guided)
    distilled: ClassVar[Distilled | None] = None
    host: ClassVar[str]

    def __init__(self) -> None:
        self.separate = False
        """Whether rows are asked one by one, since this model mixes those of one call."""
        self.mixes = False
        """Whether its family is known to, by more or less: in 16 bits a small difference cannot be told."""
        self.remarks: list[str] = []
        """What a user has to know of how the model is asked."""
        self._prompts: Sequence[str] = ()
        self._texts = Texts(())
        self._flows: dict[tuple[int, tuple[int, int, int]], FlowSampler] = {}

    @property
    @abstractmethod
    def prediction_type(self) -> PredictionType:
        """What ``predict`` returns."""

    @property
    @abstractmethod
    def family(self) -> str:
        """The host's name of the model family."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the host computes."""

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture; ModelError where the size does not fit."""

    @abstractmethod
    def _join(self, texts: Sequence[Any]) -> Any:
        """Texts of one prompt each as that of a batch; None where they do not fit into one."""

    @abstractmethod
    def _predict(self, latents: Tensor, timesteps: Tensor, text: Any, sizes: Tensor) -> Tensor:
        """The host's prediction (R, C, h, w) in one call."""

    @abstractmethod
    def _reader(self) -> tuple[Any, Any]:
        """The tokenizer and the text encoder that read a prompt; of several the first."""

    @abstractmethod
    def _schedule(self) -> Mapping[str, Any]:
        """Config of the model's noise schedule."""

    @abstractmethod
    def _sampled(self, steps: int, shape: tuple[int, int, int]) -> Tensor:
        """(N + 1,) shares of noise that the host draws a picture of this size with, along a flow."""

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Prompts that a text encoder saw only the beginning of, where the host tells."""
        return []

    def cut(self, prompt: str) -> str:
        """The end of a truncated prompt."""
        return ""

    def similar(self, word: str, count: int) -> dict[str, float]:
        """The words whose embeddings are the most alike, and how alike; see ``tokens.similar_words``."""
        try:
            tokenizer, encoder = self._reader()
            # processors of models that read pictures, too, have one
            tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
            table = encoder.get_input_embeddings().weight.detach()[: len(tokenizer)]
        # the host's parts are somebody else's code
        except (AttributeError, TypeError, NotImplementedError) as error:
            message = f"preserve: auto: the text encoder of {self.family} does not tell which words are alike: {error}"
            raise ConfigError(message, fix="name the prompts instead") from None
        return similar_words(tokenizer, table.to("cpu", torch.float32), word, count)

    def with_neighbours(
        self, leco: LecoConfig, pairs: Sequence[PromptPair], sampler: str, network: Network
    ) -> LecoConfig:
        """``leco`` with the prompts that `preserve: auto` stands for, found before it is known whether rows mix."""
        course = Course(sampler, leco.max_denoising_steps, leco.denoise_guidance_scale)
        self.separate = True
        found = preserved(leco, cast(Denoiser, self), pairs, course, network)
        self.separate = False
        self.remarks += nothing_near(leco, found)
        return found

    def predict(self, latents: Tensor, timesteps: Tensor, text: TextRows, sizes: Tensor) -> Tensor:
        """Prediction (R, C, h, w) without guidance, in one call where the rows may share one."""
        texts = cast(Texts, text).each
        together = texts[0] if len(texts) == 1 else None if self.separate else self._join(texts)
        if together is not None:
            return self._predict(latents, timesteps, together, sizes)
        rows = [slice(row, row + 1) for row in range(len(texts))]
        return torch.cat([self._predict(latents[i], timesteps[i], texts[i.start], sizes[i]) for i in rows])

    def sampler(self, name: str, steps: int, shape: tuple[int, int, int]) -> Sampler:
        """The sampler of a walk; along a flow it is Euler's, whatever ``name`` says."""
        if self.prediction_type != "flow":
            return make_sampler(name, self._schedule(), steps, self.device)
        if (steps, shape) not in self._flows:
            self._flows[steps, shape] = FlowSampler(self._sigmas(steps, shape), self.device)
        return self._flows[steps, shape]

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio (R,) at ``timesteps`` (R,)."""
        if self.prediction_type != "flow":
            return diffusion_snr(cumulative_alphas(self._schedule()), timesteps)
        noise = timesteps.float() / 1000
        return ((1 - noise) / noise).square()

    def check(
        self, table: TextTable, sampler: str, steps: int, sizes: Iterable[tuple[int, int]], *, exact: bool
    ) -> list[str]:
        """Ask what only a loaded model can tell, LoRA off: whether its rows mix, and how the host samples ``sizes``.

        Gives sentences for the user. ``exact``: whether the model computes in float32. The shortest and the longest
        prompt are asked: they are the most likely to disturb each other.
        """
        order = sorted(range(len(self._prompts)), key=lambda number: len(self._prompts[number]))
        shapes = [self.latent_shape(*size) for size in sizes]
        problem = rows_differ(cast(Denoiser, self), table, [order[0], order[-1]], shapes[0], exact=exact)
        if problem or self.mixes:
            self.separate = True
            problem = problem or "they are known to differ"
            self.remarks.append(f"{self.family} takes one prompt a call: in one call for several {problem}")
        for shape in shapes:
            self.sampler(sampler, steps, shape)
        return self.remarks

    def _sigmas(self, steps: int, shape: tuple[int, int, int]) -> Tensor:
        try:
            return self._sampled(steps, shape)
        # the host's sampling is somebody else's code, and training can do without it
        except Exception as error:  # noqa: BLE001
            problem = f"how {self.host} samples {self.family} is not known ({type(error).__name__}: {error})"
            self.remarks.append(f"{problem}; walks go by its scheduler's config")
            return self._configured(steps, shape)

    def _configured(self, steps: int, shape: tuple[int, int, int]) -> Tensor:
        """(N + 1,) shares of noise as the pipelines of diffusers have them by default."""
        config = self._schedule()
        return shifted_sigmas(config, steps, size_shift(config, shape[1] * shape[2] // 4))


@contextmanager
def shadowed(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Block in which an object has ``function`` in the place of its class's method ``name``."""
    found: Mapping[str, Any] = vars(owner)
    before = {name: found[name]} if name in found else {}
    setattr(owner, name, function)
    try:
        yield
    finally:
        delattr(owner, name)
        vars(owner).update(before)
