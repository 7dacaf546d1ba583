"""The walk from noise to the latents that a step trains at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Generator, Tensor

from leco_plugin.contracts import Sampler
from leco_plugin.core.noise import draw_index
from leco_plugin.core.objective import precise
from leco_plugin.core.state import Stateful, StateTree
from leco_plugin.errors import TrainingError

FIRST_STRIDES = 7
"""Strides in which the first walks of a pool would go all the way: on average they need half of them."""


@dataclass(eq=False)
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
    stop: int = 0
    """Steps after which it is trained at next."""
    share: float = 1.0
    """What it counts for in the loss, 1 on average."""
    turn: int = 0
    """Drawn at its start: at which positions it is measured, and where its round of the untouched prompts begins."""

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
        self.latents = self.sampler.step(precise(prediction), self.position, self.latents, self.generator)
        self.position += 1

    def leap(self, latents: Tensor, position: int) -> None:
        """Go on from ``latents`` (B, C, h, w) after ``position`` steps, to which no step of the sampler led."""
        # a sampler tells by the first timestep that it is asked for where it is
        self.latents, self.position, self.sampler = latents, position, self.sampler.fresh()

    def state(self) -> StateTree:
        """Everything that its further course depends on; TrainingError where the sampler cannot say it."""
        if not isinstance(self.sampler, Stateful):
            raise TrainingError(
                f"{type(self.sampler).__name__} cannot be stored, and so the run cannot be resumed",
                fix="switch save_state off, or use another model plugin",
            )
        return {
            "latents": self.latents,
            "sizes": self.sizes,
            "sampler": self.sampler.state(),
            "generator": self.generator.get_state(),
            "position": self.position,
            "stop": self.stop,
            "turn": self.turn,
        }

    def restore(self, state: StateTree) -> None:
        """Take the place of the walk of the same pair that gave ``state``."""
        stored = cast(Mapping[str, Any], state)
        device = self.latents.device
        self.latents, self.sizes = stored["latents"].to(device), stored["sizes"].to(device)
        cast(Stateful, self.sampler).restore(stored["sampler"])
        self.generator.set_state(stored["generator"])
        self.position, self.turn = stored["position"], stored["turn"]
        # a state of before there were stops
        self.stop = stored.get("stop", self.position)


Begin = Callable[[int], Walk]
"""Starts a walk of the pair with this number at pure noise."""
Guide = Callable[[Sequence[Walk]], Sequence[Tensor]]
"""Guided prediction (B, C, h, w) at every walk's state with the LoRA on, without gradient."""
Leap = Callable[[Walk, Tensor, int], Tensor]
"""Latents (B, C, h, w) after so many steps, in one stride along the guided prediction at a walk's state."""


class Walks(Protocol):
    """Where a step gets its latents from."""

    @property
    def moves_on(self) -> bool:
        """Whether a walk goes on after the step, and so needs the step's predictions for its next move."""

    def draw(self) -> Sequence[Walk]:
        """Walks at the states to train at."""

    def behind(self) -> Sequence[Walk]:
        """Other walks that need a guided prediction to come to where they are trained at next."""

    def moved(self, walks: Sequence[Walk], predictions: Sequence[Tensor]) -> None:
        """Hand back drawn walks with their guided predictions (B, C, h, w), where ``moves_on``."""


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance in float32, shapes (B, C, h, w). Source: arXiv:2207.12598."""
    base = precise(unconditional)
    return base + scale * (precise(conditional) - base)


class Deck:
    """Numbers 0..count-1 in shuffled rounds: each equally likely at every draw, and equally often in the long run."""

    def __init__(self, count: int, generator: Generator) -> None:
        self._count, self._generator = count, generator
        self._left: list[int] = []

    def draw(self, late: Collection[int] = ()) -> int:
        """The next number; a new round has those of ``late`` at its end."""
        if not self._left:
            order = torch.randperm(self._count, generator=self._generator).tolist()
            self._left = sorted(order, key=lambda number: number not in late)
        return self._left.pop()

    def state(self) -> StateTree:
        """What is left of the round."""
        return self._left

    def restore(self, state: StateTree) -> None:
        """Go on with that round; the generator is the caller's."""
        self._left = list(cast(Sequence[int], state))


def draw_stop(steps: int, generator: Generator) -> int:
    """Steps that a walk takes before it is trained at, uniform over 1..``steps`` - 1."""
    return 1 + draw_index(steps - 1, generator)


def walk_to_stops(walks: Sequence[Walk], guide: Guide) -> None:
    """Take each of ``walks`` to its stop, all that are still under way in one call."""
    while going := [walk for walk in walks if walk.position < walk.stop]:
        for walk, prediction in zip(going, guide(going), strict=True):
            walk.advance(prediction)


def leap_to_stops(walks: Sequence[Walk], guide: Guide, leap: Leap, longest: int) -> None:
    """The same in strides of up to ``longest`` steps."""
    while going := [walk for walk in walks if walk.position < walk.stop]:
        for walk, prediction in zip(going, guide(going), strict=True):
            to = min(walk.position + longest, walk.stop)
            if to == walk.position + 1:
                walk.advance(prediction)
            else:
                walk.leap(leap(walk, prediction, to), to)


class FreshWalks:
    """LECO's own way: every step walks anew from noise to a stop drawn from 1..N-1."""

    moves_on = False

    def __init__(
        self, begin: Begin, guide: Guide, *, pairs: int, steps: int, per_step: int, generator: Generator
    ) -> None:
        self._begin, self._guide = begin, guide
        self._pairs, self._steps, self._per_step, self._generator = pairs, steps, per_step, generator

    def draw(self) -> list[Walk]:
        """``per_step`` walks of pairs drawn with equal probability, each taken to a stop of its own."""
        walks = []
        for _ in range(self._per_step):
            walks.append(self._begin(self._draw_pair()))
            walks[-1].stop = draw_stop(self._steps, self._generator)
        walk_to_stops(walks, self._guide)
        return walks

    def behind(self) -> list[Walk]:
        """None: every walk ends where it is trained at."""
        return []

    def _draw_pair(self) -> int:
        return draw_index(self._pairs, self._generator)

    def moved(self, walks: Sequence[Walk], predictions: Sequence[Tensor]) -> None:
        """Never called: a fresh walk ends where it is trained at."""
        raise AssertionError("fresh walks do not move on")

    def state(self) -> StateTree:
        """The generator: nothing else is left of a step."""
        return self._generator.get_state()

    def restore(self, state: StateTree) -> None:
        """Draw on from there."""
        self._generator.set_state(cast(Tensor, state))


class PoolWalks:
    """Walks in flight: every step trains at the states that some have reached, and moves those on by ``stride`` steps.

    A walk that would come to N is replaced by a new one, at a position drawn from 1..stride. The first walks are
    spread evenly over 1..N-1, so that the stop is uniform from the first step to the last; they come there in long
    strides, since the LoRA does nothing yet and waiting for them is dear.
    """

    moves_on = True

    def __init__(
        self,
        begin: Begin,
        guide: Guide,
        leap: Leap,
        *,
        pairs: Sequence[int],
        steps: int,
        size: int,
        per_step: int,
        generator: Generator,
        stride: int = 1,
    ) -> None:
        """Walks are begun for the numbers in ``pairs``, each as often as it stands there."""
        self._stride = min(stride, steps - 1)
        self._leap = leap
        self._begin, self._guide, self._pairs, self._steps = begin, guide, pairs, steps
        self._deck = Deck(len(pairs), generator)
        self._turns = Deck(size, generator)
        self._per_step = min(per_step, size)
        self._size, self._generator = size, generator
        self._walks: list[Walk] = []
        self._drawn: list[int] = []

    def draw(self) -> list[Walk]:
        """``per_step`` different walks of the pool."""
        # not before: a pool that is restored has walks already
        if not self._walks:
            self._walks = self._fill()
        turns: dict[int, None] = {}
        while len(turns) < self._per_step:
            # those of the last step are still on their way
            turns[self._turns.draw(self._drawn)] = None
        self._drawn = list(turns)
        drawn = [self._walks[turn] for turn in self._drawn]
        walk_to_stops(drawn, self._guide)
        return drawn

    def behind(self) -> list[Walk]:
        """Walks between two of their stops."""
        return [walk for turn, walk in enumerate(self._walks) if walk.position < walk.stop and turn not in self._drawn]

    def moved(self, walks: Sequence[Walk], predictions: Sequence[Tensor]) -> None:
        """Move the drawn walks on, and replace those that are through."""
        for turn, walk, prediction in zip(self._drawn, walks, predictions, strict=True):
            stop = walk.position + self._stride
            if stop < self._steps:
                walk.advance(prediction)
                walk.stop = stop
            else:
                self._walks[turn] = self._next()
                self._walks[turn].stop = 1 + draw_index(self._stride, self._generator)

    def state(self) -> StateTree:
        """The walks, the decks that they are drawn from, and the generator."""
        return {
            "walks": [{"pair": walk.pair, "state": walk.state()} for walk in self._walks],
            "pairs": self._deck.state(),
            "turns": self._turns.state(),
            "drawn": self._drawn,
            "generator": self._generator.get_state(),
        }

    def restore(self, state: StateTree) -> None:
        """Go on with those walks."""
        stored = cast(Mapping[str, Any], state)
        self._walks = []
        for each in stored["walks"]:
            walk = self._begin(each["pair"])
            walk.restore(each["state"])
            self._walks.append(walk)
        self._deck.restore(stored["pairs"])
        self._turns.restore(stored["turns"])
        self._drawn = list(stored.get("drawn", ()))
        # last: beginning a walk has drawn from it
        self._generator.set_state(stored["generator"])

    def _fill(self) -> list[Walk]:
        walks = [self._next() for _ in range(self._size)]
        for walk, stop in zip(walks, _spread(self._size, self._steps, self._generator), strict=True):
            walk.stop = stop
        longest = -(-self._steps // FIRST_STRIDES)
        # two rows a walk: no more in a call than one without gradient has in a step
        for first in range(0, self._size, 2 * self._per_step):
            leap_to_stops(walks[first : first + 2 * self._per_step], self._guide, self._leap, longest)
        return walks

    def _next(self) -> Walk:
        return self._begin(self._pairs[self._deck.draw()])


def _spread(size: int, steps: int, generator: Generator) -> list[int]:
    """``size`` stops over 1..``steps`` - 1, one drawn from each equal part."""
    drawn = torch.rand(size, generator=generator)
    return [1 + int((part + drawn[part].item()) * (steps - 1) / size) for part in range(size)]
