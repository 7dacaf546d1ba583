"""What a LoRA does to pictures of its targets and of other prompts, measured on held-out noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Generator, Tensor, nn

from leco_plugin.config.schema import PromptPair
from leco_plugin.contracts import Denoiser, Network
from leco_plugin.core import objective
from leco_plugin.core.walk import Walk
from leco_plugin.engine.concepts import encode_concepts
from leco_plugin.engine.figures import Effect, Measured, PairFigures
from leco_plugin.engine.rows import Model, Row, Samplers
from leco_plugin.engine.step import LecoStep, StepSettings

HELD_OUT = 2**63 + 1
"""Seed of the noise; beyond those that a training may have."""
_ROWS_PER_CALL = 8


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
        tick: Callable[[int], object] = lambda states: None,
    ) -> None:
        """``tick`` is called with 1 for every state that was measured."""
        self._tick = tick
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

    def shares(self) -> dict[str, Effect]:
        """What each untouched prompt adds to the first pair's neutral one, in pictures of the base model.

        Along what the positive one adds to the unconditional, which is the concept and 1, and beside it.
        """
        concept, whole = self._concepts[0], 0.0
        parts = {prompt: [0.0, 0.0] for prompt in self._untouched}
        rows = [Row(0, prompt, 0.0) for prompt in (concept.neutral, concept.unconditional, concept.positive)]
        others = [Row(0, one.target, 0.0) for one in self._concepts[1:]]
        for walk in self._states(self._step(0.0), 0):
            known, weight = self._ask(walk, [*rows, *others]), self._weight(walk)
            nothing, added = known[rows[0]], known[rows[2]] - known[rows[1]]
            whole += weight * _dot(added, added)
            for part, row in zip(parts.values(), others, strict=True):
                own = known[row] - nothing
                part[0] += weight * _dot(own, added)
                part[1] += weight * _dot(own, own)
        return {prompt: Effect.of(along, size, whole) for prompt, (along, size) in parts.items()}

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
        sums = _Sums(pair)
        prompts = concept.target, concept.neutral, concept.positive, concept.unconditional
        teacher = [Row(0, prompt, 0.0) for prompt in prompts]
        students = {strength: Row(0, concept.target, strength * share) for strength in strengths}
        for walk in self._states(step, number):
            known = self._ask(walk, [*teacher, *students.values()])
            by_strength = {at: known[row] for at, row in students.items()}
            sums.add([known[row] for row in teacher], by_strength, self._weight(walk))
        return sums.figures()

    def _drift(self, step: LecoStep, number: int, strengths: Sequence[float]) -> dict[float, float]:
        prompt = self._concepts[number].target
        sums = dict.fromkeys(strengths, 0.0)
        for walk in self._states(step, number):
            known = self._ask(walk, [Row(0, prompt, strength) for strength in (0.0, *strengths)])
            for strength in strengths:
                moved = objective.distance(known[Row(0, prompt, strength)], known[Row(0, prompt, 0.0)])
                sums[strength] += self._weight(walk) * float(moved) / self._course.states
        return sums

    def _weight(self, walk: Walk) -> float:
        denoiser = self._model.denoiser
        return float(objective.picture_weight(denoiser.snr(walk.timestep[None]), denoiser.prediction_type))

    def _states(self, step: LecoStep, number: int) -> Iterator[Walk]:
        """A fresh walk at the stops where it is measured, one after the other."""
        generator = Generator().manual_seed(HELD_OUT + number)
        walk = step.begin(number, generator, self._course.samples)
        # pairs and untouched prompts meet the same positions: what they are compared by depends on the noise left
        place = number if number < len(self._pairs) else number - len(self._pairs)
        walks = len(self._pairs) if number < len(self._pairs) else len(self._untouched)
        for stop in _stops(self._course, place, walks):
            while walk.position < stop:
                walk.advance(step.guide([walk])[0])
            yield walk
            self._tick(1)

    def _ask(self, walk: Walk, rows: Sequence[Row]) -> dict[Row, Tensor]:
        """Predictions of the distinct rows, a few at a time: memory like that of training."""
        distinct, most = list(dict.fromkeys(rows)), max(1, _ROWS_PER_CALL // walk.samples)
        known: dict[Row, Tensor] = {}
        for start in range(0, len(distinct), most):
            known |= self._model.predict_distinct([walk], distinct[start : start + most])
        return known


class _Sums:
    """Adds up squared lengths and products over the states of a pair."""

    def __init__(self, pair: PromptPair) -> None:
        self._pair = pair
        self._totals: defaultdict[str, float] = defaultdict(float)
        self._by_strength: defaultdict[str, defaultdict[float, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, teacher: Sequence[Tensor], students: Mapping[float, Tensor], weight: float) -> None:
        """Take in one state: base predictions of target, neutral, positive, unconditional; the LoRA's by strength."""
        pair = self._pair
        base, neutral, positive, unconditional = map(objective.precise, teacher)
        goal = objective.goal(neutral, positive, unconditional, strength=pair.guidance_scale, action=pair.action)
        concept = objective.concept_of(goal, base, positive, unconditional, pair)
        difference, pull, edit = positive - unconditional, neutral - base, goal - base
        size = _dot(difference, difference)
        beside = pull - (_dot(pull, difference) / size if size > 0 else 0.0) * difference
        squares = {"edit": edit, "difference": difference, "base": base, "pull": beside}
        for name, tensor in squares.items():
            self._totals[name] += _dot(tensor, tensor)
        self._totals["concept"] += weight * _dot(concept, concept)
        self._totals["asked"] += weight * _dot(edit, concept)
        end = goal if pair.guidance_scale == 0 else unconditional if pair.action == "erase" else positive
        self._totals["whole"] += weight * _dot(end - base, concept)
        for at, prediction in students.items():
            change = objective.precise(prediction) - base
            self._by_strength["left"][at] += _dot(change - edit, change - edit)
            self._by_strength["along"][at] += weight * _dot(change, concept)
            self._by_strength["change"][at] += weight * _dot(change, change)

    def figures(self) -> PairFigures:
        """The sums so far."""
        by_strength: dict[str, Any] = {name: dict(self._by_strength[name]) for name in ("left", "along", "change")}
        totals: dict[str, Any] = dict(self._totals)
        return PairFigures(self._pair, **totals, **by_strength)


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


def _dot(first: Tensor, second: Tensor) -> float:
    return float(objective.dot(first, second))
