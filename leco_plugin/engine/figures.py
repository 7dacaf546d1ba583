"""What a measurement of a LoRA says: effect, side effect, drift and goal reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from leco_plugin.config.schema import PromptPair

_ROUNDING = 1e-4
"""An effect that is no more than rounding."""
FAR_OFF = 0.5
"""How far off (``Effect.off``) an erase may be before pictures break, on both models of benchmarks/README.md.
The effect alone does not tell: at 1.3 one of them draws every fifth shape broken, the other none."""


@dataclass(frozen=True)
class PairFigures:
    """Squared lengths and products for one pair, each a mean over the elements of a prediction and summed over states.

    Those of the effect are of predicted pictures (``objective.picture_weight``), the others of predictions.
    """

    pair: PromptPair
    edit: float
    """Of goal - base(target): what is asked."""
    difference: float
    """Of positive - unconditional."""
    base: float
    """Of base(target)."""
    pull: float
    """Of what neutral - base(target) has besides the concept's own direction."""
    concept: float
    """Of the concept, in pictures."""
    asked: float
    """What is asked times the concept, in pictures."""
    whole: float
    """The way from the target to the prompt that the edit leads to, times the concept, in pictures."""
    left: Mapping[float, float]
    """Of student - goal, by the strength of the LoRA."""
    along: Mapping[float, float]
    """The student's change times the concept, in pictures, by strength."""
    change: Mapping[float, float]
    """Of that change."""

    @property
    def contrast(self) -> float:
        """How large the concept is beside the whole prediction; see ``prompt_check`` for what is little."""
        return self.difference / self.base


@dataclass(frozen=True)
class Effect:
    """What a LoRA does to pictures of the targets, where 1 is the whole concept."""

    along: float
    """How far they move along the concept; negative the other way."""
    beside: float
    """How far they move beside that direction."""

    @classmethod
    def of(cls, along: float, size: float, concept: float) -> Effect:
        """From sums of the change times the concept, and of the squares of both."""
        part = ratio(along, concept)
        return cls(part, math.sqrt(max(0.0, ratio(size, concept) - part**2)))

    @property
    def off(self) -> float:
        """How far pictures are beyond those without the concept, and beside them."""
        return math.hypot(max(0.0, self.along - 1), self.beside)


def breaks(effect: Effect, *, erases: bool) -> bool:
    """Whether pictures are likely to break: an erase's that are far off, others' that move further beside than along.

    A slider's ends lie nearer than 1, and its pictures stay whole far beyond them.
    """
    return effect.off > FAR_OFF if erases else effect.beside > max(1.0, effect.along)


@dataclass(frozen=True)
class Measured:
    """Figures of a LoRA at several strengths."""

    pairs: tuple[PairFigures, ...]
    moved: Mapping[str, Mapping[float, float]]
    """Square of the change of the predicted picture for each untouched prompt, by strength; mean over states."""
    states: int
    """States that each pair was measured at."""

    @property
    def concept(self) -> float:
        """Mean square of the concept, in pictures."""
        return sum(one.concept for one in self.pairs) / len(self.pairs) / self.states

    @property
    def asked(self) -> float:
        """The effect that the pairs ask for."""
        return ratio(sum(one.asked for one in self.pairs), sum(one.concept for one in self.pairs))

    @property
    def still(self) -> bool:
        """Whether nothing moved at any strength, but by rounding."""
        moved = [(one.concept, one.change) for one in self.pairs] + [(self.concept, it) for it in self.moved.values()]
        return all(square <= _ROUNDING**2 * concept for concept, change in moved for square in change.values())

    @property
    def whole(self) -> float:
        """Effect with which targets are drawn as what the edit leads to: 1 for an erase, the end of a slider less.

        A slider's target lies between its two ends, which the concept is the difference of.
        """
        return ratio(sum(one.whole for one in self.pairs), sum(one.concept for one in self.pairs))

    def reached(self, strength: float) -> float | None:
        """Fraction of the goal that is reached: 0 as before, 1 as asked; None where no pair is for that side."""
        side = [one for one in self.pairs if one.pair.multiplier * strength > 0]
        if strength == 0:
            return 0.0
        asked = sum(one.edit for one in side)
        return 1 - sum(one.left[strength] for one in side) / asked if asked > 0 else None

    def effect(self, strength: float) -> Effect:
        """Over all pairs; a slider's is negative at its negative end."""
        return _effect([(one, strength, _sign(one.pair.multiplier)) for one in self.pairs if strength in one.along])

    def at_own_side(self, size: float) -> Effect:
        """Every pair at the strength of this ``size`` on its own side: what a slider does at both ends together."""
        return _effect([(one, size * _sign(one.pair.multiplier), 1) for one in self.pairs])

    def drift(self, strength: float) -> float | None:
        """How far pictures of untouched prompts moved, where 1 is the whole concept; None where there are none."""
        if not self.moved or self.concept == 0:
            return None
        return math.sqrt(fmean(by_strength[strength] for by_strength in self.moved.values()) / self.concept)

    def monotonicity(self, strengths: Sequence[float]) -> float | None:
        """Net effect over all its changes, from the lowest strength to the highest: 1 never turns back, -1 always."""
        steps = [self.effect(strength).along for strength in sorted(strengths)]
        changes = [after - before for before, after in pairwise(steps)]
        total = sum(map(abs, changes))
        return sum(changes) / total if total > _ROUNDING else None


def _effect(asked: Sequence[tuple[PairFigures, float, int]]) -> Effect:
    """Of pairs at a strength each, and on which side of it their concept is."""
    concept = sum(one.concept for one, _, _ in asked)
    along = sum(sign * one.along[strength] for one, strength, sign in asked)
    return Effect.of(along, sum(one.change[strength] for one, strength, _ in asked), concept)


def ratio(part: float, whole: float) -> float:
    """``part`` over ``whole``; 0 where there is nothing."""
    return part / whole if whole > 0 else 0.0


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
