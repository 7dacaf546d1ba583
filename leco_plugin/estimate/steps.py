"""The calls of a run's steps: the real step and walks, with a model that only counts the rows that it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import cast

import torch
from torch import Generator, Tensor

from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Denoiser, Network
from leco_plugin.core.walk import Walk, guided
from leco_plugin.engine.assemble import Training, assemble
from leco_plugin.engine.measure import NoNetwork
from leco_plugin.engine.pool_size import walks_per_step
from leco_plugin.engine.step import StepSettings

Shape = tuple[int, int, int]
"""(C, h, w) of latents."""
_MOST_STEPS, _MOST_ROWS, _MOST_SAMPLES, _MOST_TURNS = 100, 20_000, 16, 8
"""That are counted: the rest of a run is like them, and more samples are so many times what few are."""


@dataclass(frozen=True)
class Rows:
    """What calls of one kind have in common."""

    shape: Shape
    gradient: bool
    """Whether they are the student's."""


@dataclass(frozen=True)
class Wide:
    """A call of many rows."""

    counted: int
    strength: float | Sequence[float]
    """Of the LoRA, in every row or in each of those counted."""
    times: Fraction = Fraction(1)
    """How many times as many there are."""

    @property
    def rows(self) -> int:
        """All of them."""
        return round(self.counted * self.times)


@dataclass(frozen=True)
class Steps:
    """What the steps of a run ask the model for."""

    widest: Mapping[Rows, Wide]
    """The widest call without gradient, and with it; both of the largest shape."""
    rows: Mapping[Rows, Fraction]
    """Of an optimizer step, on average."""
    calls: Fraction
    """Of an optimizer step, on average; a student's counts three times, for its backward pass."""


def count_steps(job: JobConfig, denoiser: Denoiser, network: Network) -> Steps:
    """What ``job`` asks of a model and network like these; ModelError for a size that does not fit the model."""
    job, scale = _few_samples(job)
    calls, often = _average(job, denoiser, network)
    return Steps(
        widest={kind: replace(wide, times=scale) for kind, wide in _widest(job, denoiser, network).items()},
        rows={kind: scale * count * job.train.gradient_accumulation for kind, count in calls.items()},
        calls=often * job.train.gradient_accumulation,
    )


def _few_samples(job: JobConfig) -> tuple[JobConfig, Fraction]:
    """The job with batches that can be counted sample by sample, and how many times as many it has."""
    most = max(pair.batch_size for pair in job.pairs)
    if most <= _MOST_SAMPLES:
        return job, Fraction(1)
    few = [max(1, pair.batch_size * _MOST_SAMPLES // most) for pair in job.pairs]
    pairs = tuple(pair.model_copy(update={"batch_size": n}) for pair, n in zip(job.pairs, few, strict=True))
    return job.model_copy(update={"pairs": pairs}), Fraction(sum(pair.batch_size for pair in job.pairs), sum(few))


def _average(job: JobConfig, denoiser: Denoiser, network: Network) -> tuple[dict[Rows, Fraction], Fraction]:
    """Rows by their kind, and calls, of one pass through the step; the first one fills the pool."""
    model = _Counting(denoiser)
    training = _training(job, model, network)
    training.step.run(training.walks, lambda loss: None)
    first, first_calls = model.take()
    passes, whole = 0, job.train.steps * job.train.gradient_accumulation
    while passes < _MOST_STEPS and model.asked.total() < _MOST_ROWS:
        training.step.run(training.walks, lambda loss: None)
        passes += 1
    rows, calls = model.take()

    def mean(later: int, at_first: int) -> Fraction:
        return Fraction(later, passes) * (whole - 1) / whole + Fraction(at_first, whole)

    return {kind: mean(rows[kind], first[kind]) for kind in rows | first}, mean(calls, first_calls)


def _widest(job: JobConfig, denoiser: Denoiser, network: Network) -> dict[Rows, Wide]:
    """Of a step whose walks are all of the pair that asks for most, at a state where the base model is measured."""
    pooled = job.leco.walk == "pool"

    def asks(number: int) -> tuple[int, int]:
        pair = job.pairs[number]
        prompts = {pair.target, pair.positive, pair.unconditional, pair.neutral}
        return pair.resolution[0] * pair.resolution[1] * (1 if pooled else pair.batch_size), len(prompts)

    most = max(range(len(job.pairs)), key=asks)
    pairs = tuple(pair.model_copy(update={"dynamic_resolution": False}) for pair in job.pairs)
    model = _Counting(denoiser)
    step = _training(job.model_copy(update={"pairs": pairs}), model, network).step
    count = walks_per_step(job.leco, pairs) if pooled else job.leco.pairs_per_step
    walks = [step.begin(most, Generator().manual_seed(0), 1 if pooled else None) for _ in range(count)]
    # untouched prompts are measured in turn, and some of them are among the rows anyway
    for turn in range(_MOST_TURNS):
        for walk in walks:
            walk.position, walk.turn = 1, turn
        step.run(_Given(walks, pooled), lambda loss: None)
    return model.most


def _training(job: JobConfig, model: _Counting, network: Network) -> Training:
    settings = StepSettings(denoise_guidance_scale=job.leco.denoise_guidance_scale)
    model.network.takes_rows = network.takes_rows
    return assemble(
        job.pairs,
        job.leco,
        settings,
        denoiser=cast(Denoiser, model),
        network=model.network,
        sampler=job.train.noise_scheduler,
        generator=Generator().manual_seed(0),
    )


@dataclass(frozen=True)
class _Given:
    """These walks, again and again."""

    walks: Sequence[Walk]
    moves_on: bool

    def draw(self) -> Sequence[Walk]:
        return self.walks

    def moved(self, walks: Sequence[Walk], predictions: Sequence[Tensor]) -> None:
        pass


class _Counting:
    """A denoiser that answers with zeros; latents are as small as can be, one shape for each real one."""

    device = torch.device("cpu")
    guide = staticmethod(guided)

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._shapes: list[Shape] = []
        self.asked: Counter[Rows] = Counter()
        self.most: dict[Rows, Wide] = {}
        self.network = _Counted()
        self._calls = 0

    def take(self) -> tuple[Counter[Rows], int]:
        """Rows and calls since the last time."""
        taken = self.asked, self._calls
        self.asked, self._calls = Counter(), 0
        return taken

    def encode(self, prompts: Sequence[str]) -> _Unread:
        return _Unread()

    def latent_shape(self, height: int, width: int) -> Shape:
        shape = self._denoiser.latent_shape(height, width)
        if shape not in self._shapes:
            self._shapes.append(shape)
        return 1, 1, 1 + self._shapes.index(shape)

    def predict(self, latents: Tensor, timesteps: Tensor, text: object, sizes: Tensor) -> Tensor:
        kind, count = Rows(self._shapes[latents.shape[-1] - 1], torch.is_grad_enabled()), len(latents)
        self.asked[kind] += count
        if kind not in self.most or count > self.most[kind].counted:
            self.most[kind] = Wide(count, self.network.strength)
        self._calls += 3 if kind.gradient else 1
        return torch.zeros_like(latents)

    def sampler(self, name: str, steps: int, shape: Shape) -> _Still:
        return _Still(steps)


class _Counted(NoNetwork):
    """A network that remembers its strength."""

    strength: float | Sequence[float] = 1.0

    def multiplier(self, value: float | Sequence[float]) -> AbstractContextManager[None]:
        self.strength = value if isinstance(value, (int, float)) else tuple(value)
        return super().multiplier(value)


class _Unread:
    """A text table, where no prompt is looked at."""

    def rows(self, prompts: Sequence[int]) -> None:
        return None


class _Still:
    """A sampler that leaves latents as they are."""

    init_noise_sigma = 1.0

    def __init__(self, steps: int) -> None:
        self.timesteps = torch.zeros(steps)

    def fresh(self) -> _Still:
        return self

    def model_input(self, latents: Tensor, index: int) -> Tensor:
        return latents

    def step(self, prediction: Tensor, index: int, latents: Tensor, generator: Generator) -> Tensor:
        return latents
