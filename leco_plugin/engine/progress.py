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
from leco_plugin.engine.figures import Effect, breaks
from leco_plugin.engine.step import Measured

MEMORY = 0.97
"""How much of the older measurements of the goal is left after one more."""
_LONGER, _PATIENCE = 0.99, 10**2
"""The same for a line through them, and how little a slope is believed: as if so many, squared, spoke against one."""
ENOUGH = 20
"""Measurements before a figure is worth acting on."""
LITTLE, GONE, SURE = 0.1, 1.0, 1.3
"""Effects: below the first nothing is to be seen, below the second an erased concept is still drawn, and from the third
on it was in no picture. By benchmarks/effect.py, whose README has them all, a slider of 0.1 makes shapes 1.4 times as
large at +1 as at -1; erasings of red leave it in 87 % of the pictures at 0.88, in 37 % at 1.04 and in none at 1.26; on
the flow model in 37 % at 1.15, in 23 % at 1.20 and in none from 1.23 on."""
NOTHING = 1e-6
"""Squared size of a concept, relative to that of the prediction, at which the model does not see it at all."""
MOST_NAMED = 3
"""Pairs that are complained of one by one."""

FIGURES = ("now", "before", "size", "concept", "along", "change", "moved")
Readings = list[tuple[int, list[float]]]
"""Measurements as numbers: the pair, and its figures; nan stands for what was not measured."""


@dataclass
class Level:
    """What a ratio is now, by a line through all its measurements; a mean would lag behind a LoRA that learns.

    Sums of the whole and of the part, times the powers of their age.
    """

    whole: float = 0.0
    aged: float = 0.0
    aged_twice: float = 0.0
    part: float = 0.0
    part_aged: float = 0.0

    def add(self, part: float, whole: float) -> None:
        """Take in one measurement, at age 0."""
        self.aged_twice = _LONGER * (self.aged_twice + 2 * self.aged + self.whole)
        self.aged = _LONGER * (self.aged + self.whole)
        self.part_aged = _LONGER * (self.part_aged + self.part)
        self.whole, self.part = _LONGER * self.whole + whole, _LONGER * self.part + part

    @property
    def mean(self) -> float:
        """Part over whole, of all measurements."""
        return self.part / self.whole if self.whole > 0 else 0.0

    @property
    def now(self) -> float | None:
        """Part over whole, where the line is at age 0; None while nothing was measured."""
        if self.whole <= 0:
            return None
        steep = self.aged_twice + _PATIENCE * self.whole
        return (self.part * steep - self.part_aged * self.aged) / (self.whole * steep - self.aged**2)


@dataclass
class Sums:
    """What was measured, older measurements counting less; see ``step.Measured``."""

    now: float = 0.0
    before: float = 0.0
    size: float = 0.0
    concept: float = 0.0
    goals: float = 0.0
    """Measurements that are in those above."""
    count: int = 0
    """Measurements of the goal ever."""
    along: Level = field(default_factory=Level)
    change: Level = field(default_factory=Level)
    moved: Level = field(default_factory=Level)

    def add(self, figures: Mapping[str, float]) -> None:
        """Take in one measurement; nan stands for what was not measured."""
        if not math.isnan(figures["before"]):
            for name in ("now", "before", "size", "concept"):
                setattr(self, name, MEMORY * getattr(self, name) + figures[name])
            self.goals, self.count = MEMORY * self.goals + 1, self.count + 1
            self.along.add(figures["along"], figures["concept"])
            self.change.add(figures["change"], figures["concept"])
        if not math.isnan(figures["moved"]) and self.goals:
            # where this walk's pair has no concept, the mean of the others'
            own = figures["concept"]
            self.moved.add(figures["moved"], self.concept / self.goals if math.isnan(own) else own)

    @property
    def reached(self) -> float | None:
        """Fraction of the goal that is reached."""
        return 1 - self.now / self.before if self.before > 0 else None

    @property
    def effect(self) -> float | None:
        """How far the predicted picture moved along the concept, which is 1."""
        return self.along.now

    @property
    def side_effect(self) -> float | None:
        """How far it moved beside that direction, in the same unit."""
        along, change = self.along.now, self.change.now
        return None if along is None or change is None else math.sqrt(max(0.0, change - along**2))

    @property
    def drift(self) -> float | None:
        """How far untouched prompts moved, in the same unit."""
        moved = self.moved.now
        return None if moved is None else math.sqrt(max(0.0, moved))

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
        seen = {number: sums for number, sums in sorted(self._each.items()) if not sums.sees_nothing}
        # what has nothing to learn was said; that it learned nothing is no second fault
        known = any(sums.count >= 3 for sums in seen.values())
        return [*self.unseen(), *(self._odd(overall) if known else ()), *_lazy(self.pairs, seen, overall)]

    def _odd(self, overall: Sums) -> Iterator[str]:
        effect, beside = overall.effect, overall.side_effect
        if effect is None or beside is None:
            return
        erases = all(_erases(pair) for pair in self.pairs if not pair.keeps)
        means = effect_in_words(self.pairs, effect)
        if effect < LITTLE:
            yield f"this LoRA will show little: {means}; raise lr (three times as much is a start) or steps"
        elif erases and effect < GONE:
            yield f"what is to be erased will still be drawn: {means}, and it takes 1 to {SURE}; raise lr or steps"
        elif breaks(Effect(effect, beside), erases=erases):
            cure = "leco calibrate finds a lower strength" if effect > SURE else "a lower lr with more steps keeps more"
            yield f"this LoRA goes beyond what the model draws well: {means}, and by {beside:.2f} besides; {cure}"

    def state(self) -> StateTree:
        """All that was measured."""
        self._read()
        return {"all": asdict(self._all), "each": {str(number): asdict(sums) for number, sums in self._each.items()}}

    def restore(self, state: StateTree) -> None:
        """Go on measuring from there."""
        stored = cast(Mapping[str, Any], state)
        self._all = _restored(stored["all"])
        self._each = {int(number): _restored(sums) for number, sums in stored["each"].items()}
        self._blind = {number for number, sums in self._each.items() if sums.sees_nothing}

    def gather(self) -> tuple[list[int], Tensor]:
        """What is not taken in yet, which it then is not any more: pairs, and each one's figures on the device."""
        pending, self._pending = self._pending, []
        if not pending:
            return [], torch.empty(0, len(FIGURES))
        absent = torch.full((), math.nan, device=_device(pending))
        rows = [
            torch.stack([absent if (v := getattr(one, name)) is None else v.float() for name in FIGURES])
            for one in pending
        ]
        return [one.pair for one in pending], torch.stack(rows)

    def pending(self) -> Readings:
        """The same as numbers: waits for the device, once."""
        pairs, rows = self.gather()
        return list(zip(pairs, rows.tolist(), strict=True))

    def take(self, readings: Readings) -> None:
        """Take in what ``pending`` or ``gather`` gave, here or in another process."""
        for pair, row in readings:
            figures = dict(zip(FIGURES, row, strict=True))
            self._all.add(figures)
            sums = self._each.setdefault(pair, Sums())
            sums.add(figures)
            (self._blind.add if sums.sees_nothing else self._blind.discard)(pair)

    def _read(self) -> Sums:
        self.take(self.pending())
        return self._all


def _device(measured: Sequence[Measured]) -> torch.device:
    tensors: Iterator[Tensor | None] = (getattr(one, name) for one in measured for name in FIGURES)
    return next(tensor.device for tensor in tensors if tensor is not None)


def _restored(stored: Mapping[str, Any]) -> Sums:
    found: dict[str, Any] = {name: Level(**v) if isinstance(v, Mapping) else v for name, v in stored.items()}
    return Sums(**found)


def _lazy(pairs: Sequence[PromptPair], each: Mapping[int, Sums], overall: Sums) -> Iterator[str]:
    """Pairs that have nearly no effect beside others that have one."""
    if overall.effect is None or overall.effect < LITTLE:
        return
    little = max(LITTLE, overall.along.mean / 4)
    lazy = {number: sums.along.mean for number, sums in each.items() if sums.count >= 3 and sums.along.mean < little}
    for number, effect in list(lazy.items())[:MOST_NAMED]:
        yield f"{_name(pairs[number])} has an effect of only {effect:.2f}"
    more = len(lazy) - MOST_NAMED
    if more > 0:
        yield f"{more} more {'pair has' if more == 1 else 'pairs have'} as little"


def _erases(pair: PromptPair) -> bool:
    """Whether a pair takes away what its target is, at one end only, so that nothing of it shall be left."""
    return pair.action == "erase" and pair.target == pair.positive and pair.multiplier > 0


def _name(pair: PromptPair) -> str:
    return f"the pair that is to {pair.action} {pair.positive!r} in {pair.target!r} at multiplier {pair.multiplier:g}"
