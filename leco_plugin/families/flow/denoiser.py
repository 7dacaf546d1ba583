"""Any flow model's transformer behind the Denoiser contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from leco_plugin.config.families import Distilled, takes_guidance
from leco_plugin.contracts import PredictionType, TextRows
from leco_plugin.core.walk import guided
from leco_plugin.errors import ModelError
from leco_plugin.families.base import BaseDenoiser
from leco_plugin.families.flow.layout import LAYOUTS
from leco_plugin.families.flow.rows import FlowRows, FlowTable, Text
from leco_plugin.families.flow.source import FlowSource
from leco_plugin.families.flow.table import RECIPES
from leco_plugin.families.placement import Placement
from leco_plugin.families.samplers import FlowSampler, set_sigmas
from leco_plugin.families.tokens import similar_words

_TRAINED = 1000.0
"""A scheduler's time of pure noise."""
_SCHNELL_LENGTH = 256


class FlowDenoiser(BaseDenoiser):
    """A transformer of ``source``. Predicts noise - picture at times 0..1000, whatever the family's own conventions.

    ``embedding`` is the guidance that a guidance-distilled model is given as a number. The text encoders come from
    ``source`` when prompts are encoded, and are gone before the transformer is used.
    """

    _source: FlowSource
    prediction_type: PredictionType = "flow"
    uses_size_conditioning: ClassVar[bool] = False

    def __init__(
        self,
        source: FlowSource,
        transformer: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        *,
        placement: Placement | None = None,
        distilled: Distilled | None = None,
        embedding: float | None = None,
    ) -> None:
        self._source, self._transformer, self.device, self._dtype = source, transformer, device, dtype
        self._recipe = RECIPES[source.family.name]
        self._layout, self._pixels = LAYOUTS[self._recipe.layout], self._recipe.pixels
        self._config = source.config("transformer")
        self._placement = placement or Placement(transformer, device)
        self.distilled = distilled
        self._embedding = embedding if takes_guidance(source.family, self._config) else None
        self._known: dict[str, Text] = {}
        self._cut: dict[str, str] = {}
        self._words: tuple[Any, Tensor] | None = None

    @property
    def family(self) -> str:
        """Its name in ``config.families``."""
        return self._source.family.name

    @property
    def module(self) -> nn.Module:
        """The transformer."""
        return self._transformer

    def encode(self, prompts: Sequence[str]) -> FlowTable:
        """Every prompt by itself, so that its padding never depends on its neighbours; each is read once in a run."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if missing:
            self._placement.leave()
            # bf16 where fp16 is asked for: T5 overflows in fp16
            precision = torch.bfloat16 if self._dtype == torch.float16 else self._dtype
            with torch.no_grad(), self._source.text_pipeline(precision, self.device) as pipe:
                for prompt in missing:
                    self._known[prompt] = self._entry(self._recipe.text(pipe, prompt, self.length))
                    self._cut.update({prompt: rest} if (rest := self._unread(pipe, prompt)) else {})
        self._placement.take()
        return FlowTable([self._known[prompt] for prompt in prompts])

    def _entry(self, text: Text) -> Text:
        def kept(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, self._dtype if tensor.is_floating_point() else tensor.dtype)

        return {name: kept(tensor) for name, tensor in text.items()}

    @property
    def length(self) -> int:
        """Tokens of a prompt that are read."""
        schnell = self.family == "flux" and self.distilled is not None and self.distilled.steps
        return _SCHNELL_LENGTH if schnell else self._recipe.length

    def _unread(self, pipe: Any, prompt: str) -> str:
        """The end of a prompt that is longer than what is read, by the tokenizer that reads most."""
        names = ("tokenizer_3", "tokenizer_2", "tokenizer")
        tokenizer = next(found for name in names if (found := getattr(pipe, name, None)) is not None)
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        ids = tokenizer(prompt, add_special_tokens=False, truncation=False).input_ids
        return str(tokenizer.decode(ids[self.length :])) if len(ids) > self.length else ""

    def similar(self, word: str, count: int) -> dict[str, float]:
        """The words whose embeddings are the most alike, and how alike; see ``tokens.similar_words``."""
        if self._words is None:
            with self._source.text_pipeline(self._dtype, torch.device("cpu")) as pipe:
                tokenizer = getattr(pipe.tokenizer, "tokenizer", pipe.tokenizer)
                # tables are padded to a round number of rows
                table = pipe.text_encoder.get_input_embeddings().weight.detach()[: len(tokenizer)].clone()
            self._words = tokenizer, table
        tokenizer, table = self._words
        return similar_words(tokenizer, table.float(), word, count)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w); a token's side in pixels has to divide the size."""
        scale = self._source.vae_pixels * self._layout.pixels
        side = scale * self._layout.cell
        if height % side or width % side:
            raise ModelError(
                f"{height} x {width} pixels is not a multiple of {side} in both directions, as "
                f"{self._source.family.title} needs",
                fix="change resolution",
            )
        return int(self._config["in_channels"]) // self._layout.channels, height // scale, width // scale

    def predict(self, latents: Tensor, timesteps: Tensor, text: TextRows, sizes: Tensor) -> Tensor:
        """Noise - picture (R, C, h, w); ``sizes`` means nothing to these families."""
        recipe, rows, (h, w) = self._recipe, cast(FlowRows, text), latents.shape[2:]
        # a division, as in the pipelines: a product is off in the last bit, which the time's embedding multiplies
        noise = timesteps.float()
        time = (_TRAINED - noise if recipe.inverted else noise) / (_TRAINED / recipe.time_range)
        inputs: dict[str, Any] = {
            recipe.latents: self._layout.to(latents.to(self._dtype)),
            recipe.time: time,
            **recipe.inputs(rows, h, w),
        }
        if self._embedding is not None:
            inputs["guidance"] = torch.full_like(time, self._embedding)
        mixed = self._dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(self.device.type, dtype=self._dtype if mixed else torch.bfloat16, enabled=mixed):
            answer = self._transformer(**inputs, return_dict=False)[0]
        predicted = self._layout.back(answer, h, w)
        return -predicted if recipe.inverted else predicted

    def guide(self, conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        """Guided prediction, brought back to the norm of the conditional one where the family's pipeline does that."""
        moved = guided(conditional, unconditional, scale)
        if not self._recipe.norm:
            return moved
        layout = self._layout if self._recipe.norm == "token" else LAYOUTS["plain"]
        told, asked = (layout.to(tensor) for tensor in (moved, conditional.to(moved.dtype)))
        scale_back = asked.norm(dim=-1, keepdim=True) / told.norm(dim=-1, keepdim=True)
        return layout.back(told * scale_back, *moved.shape[2:])

    def sampler(self, name: str, steps: int, shape: tuple[int, int, int]) -> FlowSampler:
        """Euler's steps along the model's own schedule for latents of ``shape``, whatever ``name`` says."""
        recipe, scheduler = self._recipe, self._source.scheduler()
        options: dict[str, Any] = {}
        if scheduler.config.get("use_dynamic_shifting") and recipe.mu:
            options["mu"] = recipe.mu(scheduler.config, recipe.tokens(*shape), steps)
            if self.family == "krea2" and self._source.index.get("is_distilled"):
                options["mu"] = _KREA2_TURBO_MU
        if recipe.own_sigmas:
            scheduler.set_timesteps(steps, **options)
        else:
            set_sigmas(scheduler, steps, options)
        return FlowSampler(scheduler.sigmas, self.device)

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio (R,) at ``timesteps`` (R,): the latents are (1 - s) picture + s noise."""
        noise = timesteps.float() / _TRAINED
        return ((1 - noise) / noise).square()


_KREA2_TURBO_MU = 1.15
"""Krea 2 Turbo's shift is the same at every size. Source: its pipeline in diffusers."""
