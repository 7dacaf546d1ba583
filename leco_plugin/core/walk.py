"""The walk from noise to the latents that a step trains at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from leco_plugin.contracts import Sampler


@dataclass
class Walk:
    """One walk under way: its pair, its latents, and everything that its further course depends on."""

    pair: int
    """Number of its prompt pair."""
    latents: Tensor
    """(B, C, h, w), at the noise level of ``timestep``."""
    sizes: Tensor
    """(6,) size conditioning in pixels."""
    sampler: Sampler
    generator: Generator
    position: int = 0
    """Sampler steps taken."""

    @property
    def samples(self) -> int:
        """B, the latent samples of this walk."""
        return self.latents.shape[0]

    @property
    def timestep(self) -> Tensor:
        """() training timestep that the latents are really at."""
        return self.sampler.timesteps[self.position]

    @property
    def model_input(self) -> Tensor:
        """(B, C, h, w): what the model is shown."""
        return self.sampler.model_input(self.latents, self.position)

    def advance(self, prediction: Tensor) -> None:
        """Take one sampler step along the guided ``prediction`` (B, C, h, w)."""
        self.latents = self.sampler.step(prediction.float(), self.position, self.latents, self.generator)
        self.position += 1


Begin = Callable[[int], Walk]
"""Starts a walk of the pair with this number at pure noise."""
Guide = Callable[[Walk], Tensor]
"""Guided prediction (B, C, h, w) at a walk's state with the LoRA on, without gradient."""


class Walks(Protocol):
    """Where a step gets its latents from."""

    @property
    def moves_on(self) -> bool:
        """Whether a walk goes on after the step, and so needs the step's predictions for its next move."""

    def draw(self) -> Sequence[Walk]:
        """Walks at the states to train at, all of one latent shape."""

    def moved(self, walks: Sequence[Walk], predictions: Sequence[Tensor]) -> None:
        """Hand back drawn walks with their guided predictions (B, C, h, w), where ``moves_on``."""


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance in float32, shapes (B, C, h, w). Source: arXiv:2207.12598."""
    base = unconditional.float()
    return base + scale * (conditional.float() - base)


def draw_stop(steps: int, generator: Generator) -> int:
    """Steps that a walk takes before it is trained at, uniform over 1..``steps`` - 1."""
    return int(torch.randint(1, steps, (), generator=generator))


class FreshWalks:
    """LECO's own way: every step walks anew from noise to a stop drawn from 1..N-1."""

    moves_on = False

    def __init__(self, begin: Begin, guide: Guide, *, pairs: int, steps: int, generator: Generator) -> None:
        self._begin, self._guide = begin, guide
        self._pairs, self._steps, self._generator = pairs, steps, generator

    def draw(self) -> list[Walk]:
        """One walk of a pair drawn with equal probability, taken to its stop."""
        walk = self._begin(int(torch.randint(self._pairs, (), generator=self._generator)))
        for _ in range(draw_stop(self._steps, self._generator)):
            walk.advance(self._guide(walk))
        return [walk]

    def moved(self, walks: Sequence[Walk], predictions: Sequence[Tensor]) -> None:
        """Never called: a fresh walk ends where it is trained at."""
        raise AssertionError("fresh walks do not move on")
