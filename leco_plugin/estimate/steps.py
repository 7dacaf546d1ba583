"""The calls of a run's steps: the real step and walks, with a model that only notes what it is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor

from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Denoiser, Network
from leco_plugin.core.walk import Walk, guided
from leco_plugin.engine.assemble import Training, assemble
from leco_plugin.engine.concepts import MEASURE_EVERY
from leco_plugin.engine.measure import NoNetwork
from leco_plugin.engine.pool_size import walks_per_step
from leco_plugin.engine.step import StepSettings

Shape = tuple[int, int, int]
"""(C, h, w) of latents."""
_MOST_STEPS, _MOST_CALLS, _MOST_TURNS, _MOST_SAMPLES = 400, 2000, 8, 1024
"""That are counted: the rest of a run is like them."""


@dataclass(frozen=True)
class Call:
    """What the model is asked in one call."""

    shape: Shape
    rows: int
    gradient: bool = False
    """Whether it is the student's, with its backward pass."""
    strength: float | tuple[float, ...] = 1.0
    """Of the LoRA, in all rows or in each."""


@dataclass(frozen=True)
class Steps:
    """What the steps of a run ask the model for; averages are of an optimizer step."""

    teacher: Call
    student: Call
    """The widest calls, both of the largest size."""
    rows: dict[tuple[Shape, bool], float]
    """On average, by their shape and whether they have a gradient."""
    calls: float
    """On average; a student's counts three times, for its backward pass."""


def count_steps(job: JobConfig, denoiser: Denoiser, network: Network) -> Steps:
    """What ``job`` asks of a model and network like these; ModelError for a size that does not fit the model."""
    samples = job.leco.pairs_per_step * max(pair.batch_size for pair in job.pairs)
    if samples > _MOST_SAMPLES:
        raise ValueError(f"more than {_MOST_SAMPLES} samples a step are not counted")
    model = _Model(denoiser, network.takes_rows)
    training = _training(job, model)
    training.step.run(training.walks, lambda loss: None)
    # the first step fills the pool
    first, model.calls, passes = model.calls, [], 0
    while passes < _MOST_STEPS and len(model.calls) < _MOST_CALLS:
        training.step.run(training.walks, lambda loss: None)
        passes += 1
    often, whole = job.train.gradient_accumulation, job.train.steps * job.train.gradient_accumulation

    def mean(later: int, at_first: int) -> float:
        return often * (later / passes * ((whole - 1) / whole) + at_first / whole)

    (begun, begun_rows), (calls, rows) = _counted(first), _counted(model.calls)
    kinds = {kind: mean(rows[kind], begun_rows[kind]) for kind in rows | begun_rows}
    return Steps(*_widest(job, denoiser, network), kinds, mean(calls, begun))


def _counted(calls: Sequence[Call]) -> tuple[int, Counter[tuple[Shape, bool]]]:
    rows: Counter[tuple[Shape, bool]] = Counter()
    for call in calls:
        rows[call.shape, call.gradient] += call.rows
    return sum(3 if call.gradient else 1 for call in calls), rows


def _widest(job: JobConfig, denoiser: Denoiser, network: Network) -> tuple[Call, Call]:
    """Of a step whose walks are all of the pair that asks for most, at a state where the base model is measured."""
    pooled = job.leco.walk == "pool"
    pairs = tuple(pair.model_copy(update={"dynamic_resolution": False}) for pair in job.pairs)

    def asks(number: int) -> tuple[int, int]:
        pair = pairs[number]
        prompts = {pair.target, pair.positive, pair.unconditional, pair.neutral}
        return pair.resolution[0] * pair.resolution[1] * (1 if pooled else pair.batch_size), len(prompts)

    most = max(range(len(pairs)), key=asks)
    model = _Model(denoiser, network.takes_rows)
    step = _training(job.model_copy(update={"pairs": pairs}), model).step
    count = walks_per_step(job.leco, pairs) if pooled else job.leco.pairs_per_step
    # those of the step before are still on their way
    late = count if pooled and job.leco.pool_stride > 1 else 0
    walks = [step.begin(most, Generator().manual_seed(0), 1 if pooled else None) for _ in range(count + late)]
    # untouched prompts are measured in turn, and some of them are among the rows anyway
    for turn in range(_MOST_TURNS):
        for walk in walks:
            walk.position, walk.turn = 1, MEASURE_EVERY * (turn + 1) - 1
        step.run(_Given(walks[:count], walks[count:], pooled), lambda loss: None)
    teacher, student = ([call for call in model.calls if call.gradient is gradient] for gradient in (False, True))
    return max(teacher, key=lambda call: call.rows), max(student, key=lambda call: call.rows)


def _training(job: JobConfig, model: _Model) -> Training:
    settings = StepSettings(denoise_guidance_scale=job.leco.denoise_guidance_scale)
    sampler, generator = job.train.noise_scheduler, Generator().manual_seed(0)
    denoiser = cast(Denoiser, model)
    return assemble(
        job.pairs, job.leco, settings, denoiser=denoiser, network=model, sampler=sampler, generator=generator
    )


class _Model(NoNetwork):
    """Denoiser, network and text in one; latents are as small as can be, one shape for each real one."""

    device = torch.device("cpu")
    prediction_type = "flow"
    guide = staticmethod(guided)

    def __init__(self, denoiser: Denoiser, takes_rows: bool) -> None:
        self.takes_rows, self._denoiser = takes_rows, denoiser
        self._shapes: list[Shape] = []
        self._strength: float | tuple[float, ...] = 1.0
        self.calls: list[Call] = []

    def encode(self, prompts: Sequence[str]) -> _Model:
        return self

    def rows(self, prompts: Sequence[int]) -> None:
        return None

    def multiplier(self, value: float | Sequence[float]) -> AbstractContextManager[None]:
        self._strength = value if isinstance(value, (int, float)) else tuple(value)
        return super().multiplier(value)

    def latent_shape(self, height: int, width: int) -> Shape:
        shape = self._denoiser.latent_shape(height, width)
        if shape not in self._shapes:
            self._shapes.append(shape)
        return 1, 1, 1 + self._shapes.index(shape)

    def predict(self, latents: Tensor, timesteps: Tensor, text: None, sizes: Tensor) -> Tensor:
        shape = self._shapes[latents.shape[-1] - 1]
        self.calls.append(Call(shape, len(latents), torch.is_grad_enabled(), self._strength))
        return torch.zeros_like(latents)

    def sampler(self, name: str, steps: int, shape: Shape) -> _Still:
        return _Still(torch.zeros(steps))

    def snr(self, timesteps: Tensor) -> Tensor:
        return torch.ones(len(timesteps))


@dataclass(frozen=True)
class _Still:
    """A sampler that leaves latents as they are."""

    timesteps: Tensor
    init_noise_sigma: float = 1.0

    def fresh(self) -> _Still:
        return self

    def model_input(self, latents: Tensor, index: int) -> Tensor:
        return latents

    def step(self, prediction: Tensor, index: int, latents: Tensor, generator: Generator) -> Tensor:
        return latents


@dataclass(frozen=True)
class _Given:
    """These walks, again and again."""

    walks: Sequence[Walk]
    late: Sequence[Walk]
    moves_on: bool

    def draw(self) -> Sequence[Walk]:
        return self.walks

    def behind(self) -> Sequence[Walk]:
        return self.late

    def moved(self, walks: Sequence[Walk], predictions: Sequence[Tensor]) -> None:
        pass
