"""ONE LECO step, as every host calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from leco_plugin.contracts import Sampler
from leco_plugin.core import losses, noise, objective, sizes
from leco_plugin.core.walk import Walk, Walks, guided
from leco_plugin.engine.concepts import Concept
from leco_plugin.engine.rows import Model, Row, split_rows

MEASURE_EVERY = 8
"""At positions 1, 9, 17, ... of a walk the base model is asked for the target, too, so that the goal reached is known.
For most pairs that row is among the teacher's anyway; for the others it costs about 1/8 row a step."""

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


@dataclass(frozen=True)
class StepResult:
    """What a step measured; tensors, so that nothing waits for the device."""

    loss: Tensor
    """() float32."""
    reached: tuple[Tensor, Tensor] | None
    """Squared distance to the goal now and before, where the step's rows tell; see ``objective.reached``."""
    samples: int


class LecoStep:
    """The step over one model and one set of pairs; walks come from outside."""

    def __init__(self, model: Model, concepts: Sequence[Concept], sampler: Sampler, settings: StepSettings) -> None:
        self._model, self._concepts, self._sampler, self._settings = model, concepts, sampler, settings

    def begin(self, pair: int, generator: Generator) -> Walk:
        """A walk of the pair with this number at pure noise, drawn from a generator of its own."""
        asked, denoiser = self._concepts[pair].pair, self._model.denoiser
        own = noise.child_generator(generator)
        resolution = sizes.draw_resolution(asked.resolution, asked.dynamic_resolution, own)
        conditioning = sizes.size_conditioning(resolution, asked.dynamic_crops, own)
        sampler = self._sampler.fresh()
        latents = noise.initial_latents(
            asked.batch_size,
            denoiser.latent_shape(*resolution),
            sigma=sampler.init_noise_sigma,
            offset=self._settings.noise_offset,
            generator=own,
        )
        device = denoiser.device
        return Walk(pair, latents.to(device), conditioning.to(device), sampler, own)

    def guide(self, walk: Walk) -> Tensor:
        """Guided prediction (B, C, h, w) at a walk's state with the LoRA on at the pair's multiplier."""
        rows = [self._target_row(0, walk), *self._walk_rows(0, walk)]
        known = self._model.predict_distinct([walk], rows)
        return self._guided(0, walk, known[rows[0]], known)

    def run(self, walks: Walks, backward: Backward) -> StepResult:
        """Draw walks, ask the teacher (LoRA off), train the student (LoRA on) at the same latents, move on.

        Backward runs while the LoRA still has the student's strength. The student's own prediction serves as the
        conditional half of the walk's next move.
        """
        drawn = walks.draw()
        known = self._model.predict_distinct(drawn, self._known_rows(drawn, walks.moves_on))
        student = self._train(drawn, known, backward)
        if walks.moves_on:
            moves = [self._guided(i, walk, student.parts[i], known) for i, walk in enumerate(drawn)]
            walks.moved(drawn, moves)
        return StepResult(student.loss, self._reached(drawn, known, student), sum(w.samples for w in drawn))

    def _train(self, walks: Sequence[Walk], known: dict[Row, Tensor], backward: Backward) -> _Student:
        parts: dict[int, Tensor] = {}
        loss = torch.zeros((), device=walks[0].latents.device)
        goals = [self._goal(i, walk, known) for i, walk in enumerate(walks)]
        for rows in self._model.batches(walks, (self._target_row(i, walk) for i, walk in enumerate(walks))):
            with torch.enable_grad(), self._model.network.multiplier(self._model.multipliers(walks, rows)):
                predictions = split_rows(self._model.predict(walks, rows), walks, rows)
                losses = [
                    self._loss(walks[row.walk], part, goals[row.walk])
                    for row, part in zip(rows, predictions, strict=True)
                ]
                part_loss = torch.stack(losses).sum() / len(walks)
                backward(part_loss)
            loss = loss + part_loss.detach()
            parts.update((row.walk, part.detach()) for row, part in zip(rows, predictions, strict=True))
        return _Student(loss, parts, goals)

    def _known_rows(self, walks: Sequence[Walk], moving: bool) -> list[Row]:
        rows = [row for i, walk in enumerate(walks) for row in self._teacher_rows(i, walk)]
        measured = [(i, walk) for i, walk in enumerate(walks) if walk.position % MEASURE_EVERY == 1]
        rows += [Row(i, self._concepts[walk.pair].target, 0.0) for i, walk in measured]
        if moving:
            rows += [row for i, walk in enumerate(walks) for row in self._walk_rows(i, walk)]
        return rows

    def _teacher_rows(self, index: int, walk: Walk) -> list[Row]:
        concept = self._concepts[walk.pair]
        return [Row(index, prompt, 0.0) for prompt in (concept.neutral, concept.positive, concept.unconditional)]

    def _walk_rows(self, index: int, walk: Walk) -> list[Row]:
        """What the walk's next move needs besides the target: nothing at guidance 1."""
        concept = self._concepts[walk.pair]
        if self._settings.denoise_guidance_scale == 1.0:
            return []
        return [Row(index, concept.unconditional, concept.pair.multiplier)]

    def _target_row(self, index: int, walk: Walk) -> Row:
        concept = self._concepts[walk.pair]
        return Row(index, concept.target, concept.pair.multiplier)

    def _guided(self, index: int, walk: Walk, target: Tensor, known: dict[Row, Tensor]) -> Tensor:
        rows = self._walk_rows(index, walk)
        if not rows:
            return target
        return guided(target, known[rows[0]], self._settings.denoise_guidance_scale)

    def _goal(self, index: int, walk: Walk, known: dict[Row, Tensor]) -> Tensor:
        neutral, positive, unconditional = (known[row] for row in self._teacher_rows(index, walk))
        pair = self._concepts[walk.pair].pair
        return objective.goal(neutral, positive, unconditional, strength=pair.guidance_scale, action=pair.action)

    def _loss(self, walk: Walk, student: Tensor, goal: Tensor) -> Tensor:
        errors = losses.row_errors(student, goal, self._settings.loss_type, self._huber_width(walk))
        if self._settings.min_snr_gamma is not None:
            denoiser = self._model.denoiser
            snr = denoiser.snr(walk.timestep.expand(walk.samples))
            velocity = denoiser.prediction_type != "epsilon"
            errors = errors * objective.min_snr_weight(snr, self._settings.min_snr_gamma, velocity=velocity)
        return self._concepts[walk.pair].pair.weight * errors.mean()

    def _huber_width(self, walk: Walk) -> Tensor | None:
        settings = self._settings
        if settings.loss_type not in ("huber", "smooth_l1"):
            return None
        timesteps = walk.timestep.expand(walk.samples)
        snr = self._model.denoiser.snr(timesteps)
        return losses.huber_width(settings.huber_c, settings.huber_schedule, timesteps, snr)

    def _reached(
        self, walks: Sequence[Walk], known: dict[Row, Tensor], student: _Student
    ) -> tuple[Tensor, Tensor] | None:
        """Sums over the walks whose base prediction for the target is among the rows anyway."""
        measured = [
            objective.reached(student.parts[i], known[base], student.goals[i])
            for i, walk in enumerate(walks)
            if (base := Row(i, self._concepts[walk.pair].target, 0.0)) in known
        ]
        if not measured:
            return None
        now, before = zip(*measured, strict=True)
        return torch.stack(now).sum(), torch.stack(before).sum()


@dataclass(frozen=True)
class _Student:
    loss: Tensor
    parts: dict[int, Tensor]
    goals: list[Tensor]
