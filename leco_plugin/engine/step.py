"""ONE LECO step, as every host calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from leco_plugin.core import losses, noise, objective, sizes
from leco_plugin.core.walk import Walk, Walks
from leco_plugin.engine.concepts import MEASURE_EVERY, NOTHING_UNTOUCHED, Concept, Untouched
from leco_plugin.engine.rows import Model, Row, Samplers, split_rows

Backward = Callable[[Tensor], None]
"""Runs the backward pass of a loss (); scaling and accumulation are the caller's."""


@dataclass(frozen=True)
class StepSettings:
    """The options of a step."""

    denoise_guidance_scale: float = 3.0
    """Guidance of the walk, not the edit strength."""
    noise_offset: float = 0.0
    min_snr_gamma: float | None = None
    loss_type: losses.LossType = "l2"
    huber_c: float = 0.1
    huber_schedule: losses.WidthSchedule = "snr"
    preserve_weight: float = 1.0
    """Weight of the loss that keeps the preserved prompts as they are."""


@dataclass(frozen=True)
class Measured:
    """Mean products of changes at one walk, () tensors; what was not asked at it is None.

    All but ``now`` and ``before`` are of changes of the predicted picture; see ``objective.picture_weight``.
    """

    pair: int
    now: Tensor | None = None
    """Squared distance from the student to the goal."""
    before: Tensor | None = None
    """From what the frozen model says for the target to the goal."""
    size: Tensor | None = None
    """Square of what the frozen model says for the target."""
    concept: Tensor | None = None
    """Square of the concept."""
    along: Tensor | None = None
    """The student's change times the concept."""
    change: Tensor | None = None
    """Square of the student's change."""
    moved: Tensor | None = None
    """Square of the change of an untouched prompt."""


@dataclass(frozen=True)
class StepResult:
    """What a step measured; tensors, so that nothing waits for the device."""

    loss: Tensor
    """() float32."""
    measured: tuple[Measured, ...]
    """Of the walks whose rows tell."""
    samples: int


class LecoStep:
    """The step over one model and one set of pairs; walks come from outside."""

    def __init__(
        self,
        model: Model,
        concepts: Sequence[Concept],
        samplers: Samplers,
        settings: StepSettings,
        untouched: Untouched = NOTHING_UNTOUCHED,
    ) -> None:
        self._model, self._concepts, self._samplers, self._settings = model, concepts, samplers, settings
        self._untouched = untouched

    def begin(self, pair: int, generator: Generator, samples: int | None = None) -> Walk:
        """A walk of the pair with this number at pure noise, drawn from a generator of its own.

        It has ``samples`` samples, the pair's batch_size when absent.
        """
        asked, denoiser = self._concepts[pair].pair, self._model.denoiser
        own = noise.child_generator(generator)
        resolution = sizes.draw_resolution(asked.resolution, asked.dynamic_resolution, own)
        conditioning = sizes.size_conditioning(resolution, asked.dynamic_crops, own)
        shape = denoiser.latent_shape(*resolution)
        sampler = self._samplers.fresh(shape)
        latents = noise.initial_latents(
            asked.batch_size if samples is None else samples,
            shape,
            sigma=sampler.init_noise_sigma,
            offset=self._settings.noise_offset,
            generator=own,
        )
        turn = noise.draw_index(MEASURE_EVERY * max(1, self._untouched.round), own)
        device = denoiser.device
        return Walk(pair, noise.sent(latents, device), noise.sent(conditioning, device), sampler, own, turn=turn)

    def guide(self, walks: Sequence[Walk]) -> list[Tensor]:
        """Guided prediction (B, C, h, w) at every walk's state with the LoRA on at its pair's multiplier."""
        known = self._model.predict_distinct(
            walks, [r for i, walk in enumerate(walks) for r in self._guide_rows(i, walk)]
        )
        return [self._guided(i, walk, known[self._target_row(i, walk)], known) for i, walk in enumerate(walks)]

    def leap(self, walk: Walk, prediction: Tensor, position: int) -> Tensor:
        """Latents (B, C, h, w) of a walk after ``position`` steps, in one stride along its guided ``prediction``."""
        denoiser, sampler = self._model.denoiser, walk.sampler
        now, then = denoiser.snr(torch.stack([walk.timestep, sampler.timesteps[position]]))
        # a sampler of its own: one that is asked at one place remembers that
        unscaled = sampler.fresh().model_input(torch.ones_like(walk.latents), position)
        latents = objective.stride(walk.model_input, prediction, now, then, denoiser.prediction_type)
        return latents / unscaled

    def run(self, walks: Walks, backward: Backward) -> StepResult:
        """Draw walks, ask the teacher (LoRA off), train the student (LoRA on) at the same latents, move on.

        Backward runs while the LoRA still has the student's strength. The student's own prediction serves as the
        conditional half of the walk's next move. Walks between two stops move on by what the teacher's call adds.
        """
        drawn = list(walks.draw())
        behind = list(walks.behind())
        every, late = drawn + behind, range(len(drawn), len(drawn) + len(behind))
        rows = [*self._known_rows(drawn, walks.moves_on), *(r for i in late for r in self._guide_rows(i, every[i]))]
        known = self._model.predict_distinct(every, rows)
        for i in late:
            every[i].advance(self._guided(i, every[i], known[self._target_row(i, every[i])], known))
        student = self._train(drawn, known, backward)
        # before the walks move on: which rows a walk has depends on its position
        measured = tuple(m for i, walk in enumerate(drawn) if (m := self._measured(i, walk, known, student)))
        if walks.moves_on:
            moves = [
                self._guided(i, walk, student.said[self._target_row(i, walk)], known) for i, walk in enumerate(drawn)
            ]
            walks.moved(drawn, moves)
        return StepResult(student.loss, measured, sum(walk.samples for walk in drawn))

    def _train(self, walks: Sequence[Walk], known: dict[Row, Tensor], backward: Backward) -> _Student:
        said: dict[Row, Tensor] = {}
        loss = torch.zeros((), device=walks[0].latents.device)
        goals = [self._goal(i, walk, known) for i, walk in enumerate(walks)]
        asked = [row for i, walk in enumerate(walks) for row in self._student_rows(i, walk)]
        for rows in self._model.batches(walks, asked):
            with torch.enable_grad(), self._model.network.multiplier(self._model.multipliers(walks, rows)):
                parts = split_rows(self._model.predict(walks, rows), walks, rows)
                losses = [
                    self._row_loss(row, walks[row.walk], part, goals, known)
                    for row, part in zip(rows, parts, strict=True)
                ]
                part_loss = torch.stack(losses).sum() / len(walks)
                backward(part_loss)
            loss = loss + part_loss.detach()
            said.update((row, part.detach()) for row, part in zip(rows, parts, strict=True))
        return _Student(loss, said, goals)

    def _row_loss(
        self, row: Row, walk: Walk, student: Tensor, goals: Sequence[Tensor], known: dict[Row, Tensor]
    ) -> Tensor:
        """Towards the goal, or for a preserved prompt towards what the frozen model says."""
        if row == self._target_row(row.walk, walk):
            return walk.share * self._concepts[walk.pair].pair.weight * self._loss(walk, student, goals[row.walk])
        return walk.share * self._settings.preserve_weight * self._loss(walk, student, known[row.base])

    def _known_rows(self, walks: Sequence[Walk], moving: bool) -> list[Row]:
        rows: list[Row] = []
        for i, walk in enumerate(walks):
            rows += self._teacher_rows(i, walk)
            rows += [row.base for row in self._preserved_rows(i, walk)]
            rows += self._measuring_rows(i, walk)
        if moving:
            rows += [row for i, walk in enumerate(walks) for row in self._walk_rows(i, walk)]
        return rows

    def _student_rows(self, index: int, walk: Walk) -> list[Row]:
        return [self._target_row(index, walk), *self._preserved_rows(index, walk)]

    def _preserved_rows(self, index: int, walk: Walk) -> list[Row]:
        """One preserved prompt, at both signs of the multiplier in turn."""
        if not self._untouched.preserve:
            return []
        number = (walk.turn // MEASURE_EVERY + walk.position) % self._untouched.round
        prompt, multiplier = self._untouched.preserve[number // 2], self._concepts[walk.pair].pair.multiplier
        return [Row(index, prompt, -multiplier if number % 2 else multiplier)]

    def _measuring_rows(self, index: int, walk: Walk) -> list[Row]:
        # those of each walk from another one on: together, every position equally often
        if (walk.position + walk.turn) % MEASURE_EVERY:
            return []
        row = self._drift_row(index, walk)
        return [self._target_row(index, walk).base, *((row, row.base) if row else ())]

    def _drift_row(self, index: int, walk: Walk) -> Row | None:
        """The untouched prompt that is measured at this walk, where none is preserved."""
        others = () if self._untouched.preserve else self._untouched.watched
        if not others:
            return None
        prompt = others[(walk.turn // MEASURE_EVERY + walk.position // MEASURE_EVERY) % len(others)]
        return Row(index, prompt, self._concepts[walk.pair].pair.multiplier)

    def _teacher_rows(self, index: int, walk: Walk) -> list[Row]:
        concept = self._concepts[walk.pair]
        return [Row(index, prompt, 0.0) for prompt in (concept.neutral, concept.positive, concept.unconditional)]

    def _walk_rows(self, index: int, walk: Walk) -> list[Row]:
        """What the walk's next move needs besides the target: nothing at guidance 1."""
        concept = self._concepts[walk.pair]
        if self._settings.denoise_guidance_scale == 1.0:
            return []
        return [Row(index, concept.unconditional, concept.pair.multiplier)]

    def _guide_rows(self, index: int, walk: Walk) -> list[Row]:
        """What a walk is moved on with, where it is not trained at."""
        return [self._target_row(index, walk), *self._walk_rows(index, walk)]

    def _target_row(self, index: int, walk: Walk) -> Row:
        concept = self._concepts[walk.pair]
        return Row(index, concept.target, concept.pair.multiplier)

    def _guided(self, index: int, walk: Walk, target: Tensor, known: dict[Row, Tensor]) -> Tensor:
        rows = self._walk_rows(index, walk)
        if not rows:
            return target
        return self._model.denoiser.guide(target, known[rows[0]], self._settings.denoise_guidance_scale)

    def _goal(self, index: int, walk: Walk, known: dict[Row, Tensor]) -> Tensor:
        neutral, positive, unconditional = (known[row] for row in self._teacher_rows(index, walk))
        pair = self._concepts[walk.pair].pair
        return objective.goal(neutral, positive, unconditional, strength=pair.guidance_scale, action=pair.action)

    def _loss(self, walk: Walk, student: Tensor, aim: Tensor) -> Tensor:
        errors = losses.row_errors(student, aim, self._settings.loss_type, self._huber_width(walk))
        if self._settings.min_snr_gamma is not None:
            denoiser = self._model.denoiser
            snr = denoiser.snr(walk.timestep.expand(walk.samples))
            velocity = denoiser.prediction_type != "epsilon"
            errors = errors * objective.min_snr_weight(snr, self._settings.min_snr_gamma, velocity=velocity)
        return errors.mean()

    def _huber_width(self, walk: Walk) -> Tensor | None:
        settings = self._settings
        if settings.loss_type not in ("huber", "smooth_l1"):
            return None
        timesteps = walk.timestep.expand(walk.samples)
        snr = self._model.denoiser.snr(timesteps)
        return losses.huber_width(settings.huber_c, settings.huber_schedule, timesteps, snr)

    def _measured(self, index: int, walk: Walk, known: dict[Row, Tensor], student: _Student) -> Measured | None:
        """What this walk's rows tell; a pair that keeps its target tells how far that moved."""
        row, pair, weight = self._target_row(index, walk), self._concepts[walk.pair].pair, self._picture_weight(walk)
        base, said, goal = known.get(row.base), student.said[row], student.goals[index]
        if base is not None and pair.keeps:
            return Measured(walk.pair, moved=weight * objective.distance(said, base))
        distance = self._moved(index, walk, known, student)
        moved = None if distance is None else weight * distance
        if base is None:
            return Measured(walk.pair, moved=moved) if moved is not None else None
        _, positive, unconditional = (known[row] for row in self._teacher_rows(index, walk))
        concept = objective.concept_of(goal, base, positive, unconditional, pair)
        change = objective.precise(said) - objective.precise(base)
        return Measured(
            walk.pair,
            now=objective.distance(said, goal),
            before=objective.distance(base, goal),
            size=weight * objective.dot(base, base),
            concept=weight * objective.dot(concept, concept),
            along=weight * objective.dot(change, concept),
            change=weight * objective.dot(change, change),
            moved=moved,
        )

    def _picture_weight(self, walk: Walk) -> Tensor:
        denoiser = self._model.denoiser
        return objective.picture_weight(denoiser.snr(walk.timestep[None]), denoiser.prediction_type)[0]

    def _moved(self, index: int, walk: Walk, known: dict[Row, Tensor], student: _Student) -> Tensor | None:
        for row in self._preserved_rows(index, walk):
            return objective.distance(student.said[row], known[row.base])
        watched = self._drift_row(index, walk)
        if watched is None or watched not in known or watched.base not in known:
            return None
        return objective.distance(known[watched], known[watched.base])


@dataclass(frozen=True)
class _Student:
    loss: Tensor
    said: dict[Row, Tensor]
    goals: list[Tensor]
