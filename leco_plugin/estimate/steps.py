"""The calls of a run's steps: the real step and walks, with a model that only notes what it is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Generator, Tensor

from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Denoiser, Network
from leco_plugin.core.walk import Walks, guided
from leco_plugin.engine.assemble import assemble
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
    if job.leco.pairs_per_step * max(pair.batch_size for pair in job.pairs) > _MOST_SAMPLES:
        raise ValueError(f"more than {_MOST_SAMPLES} samples a step are not counted")
    run, later, passes = _Steps(job, denoiser, network), list[Call](), 0
    # the first step fills the pool
    first = run.step(run.walks)
    while passes < _MOST_STEPS and len(later) < _MOST_CALLS:
        later += run.step(run.walks)
        passes += 1
    once = 1 / job.train.steps
    often = (job.train.gradient_accumulation - once) / passes
    rows, calls = defaultdict[tuple[Shape, bool], float](float), 0.0
    for call, times in (*((call, once) for call in first), *((call, often) for call in later)):
        rows[call.shape, call.gradient] += times * call.rows
        calls += times * (3 if call.gradient else 1)
    return Steps(*_widest(job, denoiser, network), dict(rows), calls)


def _widest(job: JobConfig, denoiser: Denoiser, network: Network) -> tuple[Call, Call]:
    """Of a step whose walks are all of the pair that asks for most, at a state where the base model is measured."""
    leco, pooled = job.leco, job.leco.walk == "pool"
    pairs = tuple(pair.model_copy(update={"dynamic_resolution": False}) for pair in job.pairs)

    def asks(number: int) -> tuple[int, int]:
        pair = pairs[number]
        prompts = {pair.target, pair.positive, pair.unconditional, pair.neutral}
        return pair.resolution[0] * pair.resolution[1] * (1 if pooled else pair.batch_size), len(prompts)

    run, most = _Steps(job.model_copy(update={"pairs": pairs}), denoiser, network), max(range(len(pairs)), key=asks)
    count = walks_per_step(leco, pairs) if pooled else leco.pairs_per_step
    # those of the step before are still on their way
    late = count if pooled and leco.pool_stride > 1 else 0
    walks = [run.begin(most, Generator().manual_seed(0), 1 if pooled else None) for _ in range(count + late)]
    given: Any = SimpleNamespace(
        draw=lambda: walks[:count], behind=lambda: walks[count:], moved=lambda *_: None, moves_on=pooled
    )
    calls: list[Call] = []
    # untouched prompts are measured in turn, and some of them are among the rows anyway
    for turn in range(_MOST_TURNS):
        for walk in walks:
            walk.position, walk.turn = 1, MEASURE_EVERY * (turn + 1) - 1
        calls += run.step(given)
    teacher, student = ([call for call in calls if call.gradient is gradient] for gradient in (False, True))
    return max(teacher, key=lambda call: call.rows), max(student, key=lambda call: call.rows)


class _Steps(NoNetwork):
    """Denoiser, network and text in one; latents are as small as can be, one shape for each real one."""

    device = torch.device("cpu")
    prediction_type = "flow"
    guide = staticmethod(guided)

    def __init__(self, job: JobConfig, denoiser: Denoiser, network: Network) -> None:
        self.takes_rows, self._denoiser = network.takes_rows, denoiser
        self._shapes: list[Shape] = []
        self._strength: float | tuple[float, ...] = 1.0
        self._calls: list[Call] = []
        settings = StepSettings(denoise_guidance_scale=job.leco.denoise_guidance_scale)
        training = assemble(
            job.pairs, job.leco, settings, denoiser=cast(Denoiser, self), network=self,
            sampler=job.train.noise_scheduler, generator=Generator().manual_seed(0),
        )  # fmt: skip
        self._step, self.begin, self.walks = training.step, training.step.begin, training.walks

    def step(self, walks: Walks) -> list[Call]:
        """The calls of one step at ``walks``."""
        self._step.run(walks, lambda loss: None)
        calls, self._calls = self._calls, []
        return calls

    def encode(self, prompts: Sequence[str]) -> SimpleNamespace:
        return SimpleNamespace(rows=lambda prompts: None)

    def multiplier(self, value: float | Sequence[float]) -> AbstractContextManager[None]:
        values = (value,) if isinstance(value, (int, float)) else tuple(value)
        self._strength = values[0] if len(set(values)) == 1 else values
        return super().multiplier(value)

    def latent_shape(self, height: int, width: int) -> Shape:
        shape = self._denoiser.latent_shape(height, width)
        if shape not in self._shapes:
            self._shapes.append(shape)
        return 1, 1, 1 + self._shapes.index(shape)

    def predict(self, latents: Tensor, timesteps: Tensor, text: None, sizes: Tensor) -> Tensor:
        shape = self._shapes[latents.shape[-1] - 1]
        self._calls.append(Call(shape, len(latents), torch.is_grad_enabled(), self._strength))
        return torch.zeros_like(latents)

    def sampler(self, name: str, steps: int, shape: Shape) -> SimpleNamespace:
        """One that leaves latents as they are."""
        still = SimpleNamespace(timesteps=torch.zeros(steps), init_noise_sigma=1.0)
        still.fresh = lambda: still
        still.model_input = lambda latents, index: latents
        still.step = lambda prediction, index, latents, generator: latents
        return still

    def snr(self, timesteps: Tensor) -> Tensor:
        return torch.ones(len(timesteps))
