"""How far a run has come: goal reached, drift, and what to tell a user whose LoRA does nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from leco_plugin.config.schema import PromptPair
from leco_plugin.config.words import effect_in_words
from leco_plugin.core.state import StateTree
from leco_plugin.engine.step import Measured

MEMORY = 0.97
"""How much of the older measurements is left after one more."""
ENOUGH = 20
"""Measurements before a figure is worth acting on."""
TOO_LITTLE = 0.2
"""A run that reaches less of its goal than this has hardly trained anything."""
NOTHING = 1e-6
"""Squared size of a concept, relative to that of the prediction, at which the model does not see it at all."""
MOST_NAMED = 3
"""Pairs that are complained of one by one."""

_FIGURES = ("now", "before", "size", "concept", "along", "change", "moved")


@dataclass
class Sums:
    """Decaying sums of what is measured; see ``step.Measured``."""

    now: float = 0.0
    before: float = 0.0
    size: float = 0.0
    concept: float = 0.0
    along: float = 0.0
    change: float = 0.0
    moved: float = 0.0
    goals: float = 0.0
    """Measurements that are in all but ``moved``."""
    moves: float = 0.0
    """Measurements that are in ``moved``."""
    count: int = 0
    """Measurements of the goal ever."""

    def add(self, figures: Mapping[str, float]) -> None:
        """Take in one measurement; nan stands for what was not measured."""
        if not math.isnan(figures["before"]):
            for name in _FIGURES[:-1]:
                setattr(self, name, MEMORY * getattr(self, name) + figures[name])
            self.goals, self.count = MEMORY * self.goals + 1, self.count + 1
        if not math.isnan(figures["moved"]):
            self.moved, self.moves = MEMORY * self.moved + figures["moved"], MEMORY * self.moves + 1

    @property
    def reached(self) -> float | None:
        """Fraction of the goal that is reached."""
        return 1 - self.now / self.before if self.before > 0 else None

    @property
    def effect(self) -> float | None:
        """How far the predicted picture moved along the concept, which is 1."""
        return self.along / self.concept if self.concept > 0 else None

    @property
    def side_effect(self) -> float | None:
        """How far it moved beside that direction, in the same unit."""
        if self.concept <= 0:
            return None
        return math.sqrt(max(0.0, self.change / self.concept - (self.along / self.concept) ** 2))

    @property
    def drift(self) -> float | None:
        """How far untouched prompts moved, in the same unit."""
        if not self.moves or self.concept <= 0:
            return None
        return math.sqrt((self.moved / self.moves) / (self.concept / self.goals))

    @property
    def sees_nothing(self) -> bool:
        """Whether the concept is nothing to the model."""
        return self.goals > 0 and self.concept <= NOTHING * self.size


@dataclass
class Progress:
    """Collects what steps measured on the device, and reads it off when asked."""

    pairs: Sequence[PromptPair]
    _pending: list[Measured] = field(default_factory=list, init=False)
    _all: Sums = field(default_factory=Sums, init=False)
    _each: dict[int, Sums] = field(default_factory=dict, init=False)
    _blind: set[int] = field(default_factory=set, init=False)
    """Pairs whose concept the model does not see; kept, so that asking takes no time that grows with the pairs."""

    def add(self, measured: Iterable[Measured]) -> None:
        """Take in what a step measured; nothing waits for the device."""
        self._pending += measured

    @property
    def figures(self) -> dict[str, float | None]:
        """All of them, as events name them; the device is waited for once."""
        sums = self._read()
        return {
            "goal_reached": sums.reached,
            "effect": sums.effect,
            "side_effect": sums.side_effect,
            "drift": sums.drift,
        }

    @property
    def means(self) -> str:
        """The effect in words; nothing while none was measured."""
        effect = self._read().effect
        return "" if effect is None else effect_in_words(self.pairs, effect)

    def reached(self, effect: float) -> bool:
        """Whether the effect is that large, by measurements enough to trust."""
        sums = self._read()
        return sums.count >= ENOUGH and sums.effect is not None and sums.effect >= effect

    def unseen(self) -> list[str]:
        """A sentence for every concept that is nothing to the model; the pairs of a slider share theirs."""
        self._read()
        blind = [self.pairs[number] for number in sorted(self._blind)]
        concepts = {frozenset((pair.positive, pair.unconditional)): pair for pair in reversed(blind)}
        return [
            f"{_name(pair)} has nothing to train: {pair.positive!r} (positive) and {pair.unconditional!r} "
            "(unconditional) are the same to this model; choose prompts that give different pictures"
            for pair in reversed(concepts.values())
        ]

    def complaints(self) -> list[str]:
        """What a user has to know of a run that went to its end: at best nothing."""
        overall = self._read()
        return [*self.unseen(), *self._too_little(overall)]

    def _too_little(self, overall: Sums) -> Iterator[str]:
        lazy = {
            number: sums.reached
            for number, sums in sorted(self._each.items())
            if sums.count >= 3 and sums.reached is not None and sums.reached < TOO_LITTLE and not sums.sees_nothing
        }
        if overall.count >= 3 and overall.reached is not None and overall.reached < TOO_LITTLE:
            yield (
                f"this LoRA does next to nothing: it reached {_percent(overall.reached)} of its goal; "
                "raise lr (three times as much is a start) or steps"
                + (", or lower guidance_scale: a goal so far away may be out of reach" if overall.reached < 0 else "")
            )
        for number, reached in list(lazy.items())[:MOST_NAMED]:
            yield f"{_name(self.pairs[number])} reached only {_percent(reached)} of its goal"
        more = len(lazy) - MOST_NAMED
        if more > 0:
            yield f"{more} more {'pair' if more == 1 else 'pairs'} reached as little"

    def state(self) -> StateTree:
        """All that was measured."""
        self._read()
        return {"all": asdict(self._all), "each": {str(number): asdict(sums) for number, sums in self._each.items()}}

    def restore(self, state: StateTree) -> None:
        """Go on measuring from there."""
        stored = cast(Mapping[str, Any], state)
        self._all = Sums(**stored["all"])
        self._each = {int(number): Sums(**sums) for number, sums in stored["each"].items()}
        self._blind = {number for number, sums in self._each.items() if sums.sees_nothing}

    def _read(self) -> Sums:
        """Everything pending, from the device in one go."""
        if self._pending:
            absent = torch.full((), math.nan, device=_device(self._pending))
            values = [
                torch.stack([absent if (v := getattr(one, name)) is None else v.float() for name in _FIGURES])
                for one in self._pending
            ]
            for one, row in zip(self._pending, torch.stack(values).tolist(), strict=True):
                figures = dict(zip(_FIGURES, row, strict=True))
                self._all.add(figures)
                sums = self._each.setdefault(one.pair, Sums())
                sums.add(figures)
                (self._blind.add if sums.sees_nothing else self._blind.discard)(one.pair)
            self._pending = []
        return self._all


def _device(measured: Sequence[Measured]) -> torch.device:
    tensors: Iterator[Tensor | None] = (getattr(one, name) for one in measured for name in _FIGURES)
    return next(tensor.device for tensor in tensors if tensor is not None)


def _percent(fraction: float) -> str:
    # a number first: that of a fraction just below zero would have a sign
    return f"{round(100 * fraction)} %"


def _name(pair: PromptPair) -> str:
    return f"the pair that is to {pair.action} {pair.positive!r} in {pair.target!r} at multiplier {pair.multiplier:g}"
