"""What a LoRA does to its goal and to its surroundings, measured on held-out noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from torch import Generator, Tensor, nn

from leco_plugin.config.schema import PromptPair
from leco_plugin.contracts import Denoiser, Network
from leco_plugin.core import objective
from leco_plugin.core.walk import Walk
from leco_plugin.engine.concepts import encode_concepts
from leco_plugin.engine.rows import Model, Row, Samplers
from leco_plugin.engine.step import LecoStep, StepSettings

HELD_OUT = 2**63 + 1
"""Seed of the noise; beyond those that a training may have."""
_ROWS_PER_CALL = 8
_ROUNDING = 1e-4
"""Progress that is no more than rounding."""


@dataclass(frozen=True)
class Course:
    """How the held-out walks go, and how much is measured on them."""

    sampler: str = "ddim"
    steps: int = 40
    """N, sampler steps of a whole walk."""
    guidance: float = 3.0
    """Guidance of the walk, as in training."""
    samples: int = 8
    """Noise samples for each pair and each untouched prompt."""
    most_states: int = 6

    @property
    def states(self) -> int:
        """States of a walk that are measured; those of all walks together are spread evenly over 1..N-1."""
        return min(self.most_states, self.steps - 1)


@dataclass(frozen=True)
class PairFigures:
    """Squared lengths for one pair, each a mean over the elements of a prediction and summed over the states."""

    pair: PromptPair
    edit: float
    """Of goal - base(target): what is asked."""
    concept: float
    """Of positive - unconditional."""
    base: float
    """Of base(target)."""
    pull: float
    """Of what neutral - base(target) has besides the concept's own direction."""
    left: Mapping[float, float]
    """Of student - goal, by the strength of the LoRA."""
    along: Mapping[float, float]
    """Inner product of student - base(target) with what is asked, by strength."""

    @property
    def contrast(self) -> float:
        """How large the concept is beside the whole prediction; see ``prompt_check`` for what is little."""
        return self.concept / self.base


@dataclass(frozen=True)
class Measured:
    """Figures of a LoRA at several strengths."""

    pairs: tuple[PairFigures, ...]
    moved: Mapping[str, Mapping[float, float]]
    """Squared length of lora - base for each untouched prompt, by strength; mean over elements and states."""
    states: int
    """States that each pair was measured at."""

    @property
    def edit(self) -> float:
        """Mean squared length of what is asked."""
        return sum(one.edit for one in self.pairs) / len(self.pairs) / self.states

    @property
    def still(self) -> bool:
        """Whether nothing moved at any strength, but by rounding."""
        for one in self.pairs:
            moves = (max(abs(along), abs(one.left[at] - one.edit)) for at, along in one.along.items())
            if any(move > _ROUNDING * one.edit for move in moves):
                return False
        return all(moved <= _ROUNDING * self.edit for each in self.moved.values() for moved in each.values())

    def reached(self, strength: float) -> float | None:
        """Fraction of the goal that is reached: 0 as before, 1 as asked; None where no pair is for that side."""
        side = [one for one in self.pairs if one.pair.multiplier * strength > 0]
        if strength == 0:
            return 0.0
        asked = sum(one.edit for one in side)
        return 1 - sum(one.left[strength] for one in side) / asked if asked > 0 else None

    def progress(self, strength: float) -> float:
        """How far predictions went along what is asked, sideways movement left aside; negative the other way."""
        known = [one for one in self.pairs if strength in one.along]
        asked = sum(one.edit for one in known)
        return sum(_sign(one.pair.multiplier) * one.along[strength] for one in known) / asked if asked > 0 else 0.0

    def drift(self, strength: float) -> float | None:
        """How far untouched prompts moved, squared: 1 is as much as what is asked; None where nothing was asked."""
        if not self.moved or self.edit == 0:
            return None
        return sum(by_strength[strength] for by_strength in self.moved.values()) / len(self.moved) / self.edit

    def monotonicity(self, strengths: Sequence[float]) -> float | None:
        """Net progress over all progress, from the lowest strength to the highest: 1 never turns back, -1 always."""
        steps = [self.progress(strength) for strength in sorted(strengths)]
        changes = [after - before for before, after in pairwise(steps)]
        total = sum(map(abs, changes))
        return sum(changes) / total if total > _ROUNDING else None

    def at_own_side(self, size: float) -> OwnSide:
        """Every pair at the strength of this ``size`` on its own side: what a slider does at both ends together."""
        asked = left = along = 0.0
        for one in self.pairs:
            strength = size * _sign(one.pair.multiplier)
            asked, left, along = asked + one.edit, left + one.left[strength], along + one.along[strength]
        if asked == 0:
            return OwnSide(0.0, 0.0, 0.0)
        return OwnSide(1 - left / asked, along / asked, (left + 2 * along - asked) / asked)


@dataclass(frozen=True)
class OwnSide:
    """What all pairs together do, relative to what is asked."""

    reached: float
    progress: float
    change: float
    """Squared length of student - base(target)."""


class NoNetwork:
    """A network that is not there: the base model alone is measured."""

    takes_rows = True

    def parameters(self) -> list[nn.Parameter]:
        """None."""
        return []

    def multiplier(self, value: float | Sequence[float]) -> AbstractContextManager[None]:
        """Nothing to set."""
        return nullcontext()

    def save(self, path: Path, dtype: str, metadata: Mapping[str, str]) -> None:
        """Never called."""
        raise AssertionError("there is no network to save")


class Bench:
    """One model with one LoRA, and the prompts that it is measured with; they are encoded once."""

    def __init__(
        self,
        denoiser: Denoiser,
        network: Network,
        pairs: Sequence[PromptPair],
        untouched: Sequence[str],
        course: Course,
    ) -> None:
        self._course, self._untouched = course, list(dict.fromkeys(untouched))
        self._pairs = [pair for pair in pairs if asks(pair)]
        self._unit = unit(self._pairs)
        calm = [_kept(prompt, pairs[0].resolution) for prompt in self._untouched]
        concepts = encode_concepts([*self._pairs, *calm], denoiser)
        self._concepts = concepts.items
        self._model = Model(denoiser, network, concepts.table)

    def measure(
        self,
        strengths: Sequence[float],
        *,
        walk_strength: float | None = None,
        own_side: bool = False,
        drift: bool = True,
    ) -> Measured:
        """Measure at each of ``strengths``; 1 (or the pairs' greatest multiplier) is what they were trained at.

        The walks of the pairs have the LoRA on at ``walk_strength``; where absent, at each pair's own multiplier.
        Untouched prompts are walked by the base model, so that every LoRA meets the same states there. ``own_side``
        leaves out strengths of the sign that a pair was not trained at, and ``drift`` false the untouched prompts.
        """
        step = self._step(1.0 if walk_strength is None else walk_strength / self._unit)
        pairs = []
        for number, pair in enumerate(self._pairs):
            asked = [at for at in strengths if not own_side or at * pair.multiplier >= 0]
            pairs.append(self._pair(step, number, asked))
        first = len(self._pairs)
        watched = enumerate(self._untouched, start=first) if drift else ()
        moved = {prompt: self._drift(step, number, strengths) for number, prompt in watched}
        return Measured(tuple(pairs), moved, self._course.states)

    def _step(self, factor: float) -> LecoStep:
        """The step whose walks have the LoRA at ``factor`` times each pair's multiplier."""
        samplers = Samplers(self._model.denoiser, self._course.sampler, self._course.steps)
        settings = StepSettings(denoise_guidance_scale=self._course.guidance)
        walked = [
            replace(one, pair=one.pair.model_copy(update={"multiplier": factor * one.pair.multiplier}))
            for one in self._concepts
        ]
        return LecoStep(self._model, walked, samplers, settings)

    def _pair(self, step: LecoStep, number: int, strengths: Sequence[float]) -> PairFigures:
        concept, pair = self._concepts[number], self._pairs[number]
        share = abs(pair.multiplier) / self._unit
        sums = _Sums()
        prompts = concept.target, concept.neutral, concept.positive, concept.unconditional
        teacher = [Row(0, prompt, 0.0) for prompt in prompts]
        students = {strength: Row(0, concept.target, strength * share) for strength in strengths}
        for walk in self._states(step, number):
            known = self._ask(walk, [*teacher, *students.values()])
            sums.add(pair, [known[row] for row in teacher], {at: known[row] for at, row in students.items()})
        return sums.figures(pair)

    def _drift(self, step: LecoStep, number: int, strengths: Sequence[float]) -> dict[float, float]:
        prompt = self._concepts[number].target
        sums = dict.fromkeys(strengths, 0.0)
        for walk in self._states(step, number):
            known = self._ask(walk, [Row(0, prompt, strength) for strength in (0.0, *strengths)])
            for strength in strengths:
                moved = objective.squared_error(known[Row(0, prompt, strength)], known[Row(0, prompt, 0.0)])
                sums[strength] += float(moved.mean()) / self._course.states
        return sums

    def _states(self, step: LecoStep, number: int) -> Iterator[Walk]:
        """A fresh walk at the stops where it is measured, one after the other."""
        generator = Generator().manual_seed(HELD_OUT + number)
        walk = step.begin(number, generator, self._course.samples)
        for stop in _stops(self._course, number, len(self._concepts)):
            while walk.position < stop:
                walk.advance(step.guide([walk])[0])
            yield walk

    def _ask(self, walk: Walk, rows: Sequence[Row]) -> dict[Row, Tensor]:
        """Predictions of the distinct rows, a few at a time: memory like that of training."""
        distinct, most = list(dict.fromkeys(rows)), max(1, _ROWS_PER_CALL // walk.samples)
        known: dict[Row, Tensor] = {}
        for start in range(0, len(distinct), most):
            known |= self._model.predict_distinct([walk], distinct[start : start + most])
        return known


class _Sums:
    """Adds up squared lengths over the states of a pair."""

    def __init__(self) -> None:
        self._edit = self._concept = self._base = self._pull = 0.0
        self._left: dict[float, float] = {}
        self._along: dict[float, float] = {}

    def add(self, pair: PromptPair, teacher: Sequence[Tensor], students: Mapping[float, Tensor]) -> None:
        """Take in one state: base predictions of target, neutral, positive, unconditional; the LoRA's by strength."""
        base, neutral, positive, unconditional = map(objective.precise, teacher)
        goal = objective.goal(neutral, positive, unconditional, strength=pair.guidance_scale, action=pair.action)
        concept, pull, edit = positive - unconditional, neutral - base, goal - base
        size = float(_dot(concept, concept))
        share = float(_dot(pull, concept)) / size if size > 0 else 0.0
        self._pull += float(_dot(pull - share * concept, pull - share * concept))
        self._concept += size
        self._edit += float(_dot(edit, edit))
        self._base += float(_dot(base, base))
        for at, prediction in students.items():
            change = objective.precise(prediction) - base
            self._left[at] = self._left.get(at, 0.0) + float(_dot(change - edit, change - edit))
            self._along[at] = self._along.get(at, 0.0) + float(_dot(change, edit))

    def figures(self, pair: PromptPair) -> PairFigures:
        """The sums so far."""
        return PairFigures(pair, self._edit, self._concept, self._base, self._pull, self._left, self._along)


def asks(pair: PromptPair) -> bool:
    """Whether a pair asks for anything: one that keeps a prompt, or switches the LoRA off, does not."""
    return pair.multiplier != 0 and not pair.keeps


def unit(pairs: Sequence[PromptPair]) -> float:
    """Strength of the LoRA at which ``pairs`` have their goals: their greatest multiplier, 1 where there is none."""
    return max((abs(pair.multiplier) for pair in pairs), default=1.0)


def _stops(course: Course, number: int, walks: int) -> list[int]:
    """Positions 1..N-1 of one of several walks, ascending; together they are spread evenly."""
    count = course.states
    width = (course.steps - 1) / count
    # every walk looks at another part of each interval, one in the middle of it
    offset = (number + 0.5) / walks
    return [1 + int((part + offset) * width) for part in range(count)]


def _kept(prompt: str, resolution: tuple[int, int]) -> PromptPair:
    """A pair whose walk is the base model's own for ``prompt``."""
    return PromptPair(
        target=prompt, positive=prompt, neutral=prompt, resolution=resolution, guidance_scale=0.0, multiplier=0.0
    )


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).mean()


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
