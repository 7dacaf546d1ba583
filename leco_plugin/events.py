"""What a run reports to its observers: plain frozen values, no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunStarted:
    """Everything is loaded and training begins."""

    name: str
    steps: int
    facts: tuple[tuple[str, str], ...]
    """What a user wants to see before waiting: (label, value) in order of interest."""
    done: int = 0
    """Steps that the run which this one goes on with has done."""
    run_id: str = ""
    """Tells runs of one name apart; one that goes on with another has the same."""


@dataclass(frozen=True)
class StepDone:
    """One or more optimizer steps are done; figures are of the steps since the last such event."""

    step: int
    steps: int
    loss: float
    """Mean over the steps since the last event."""
    learning_rate: float
    goal_reached: float | None
    """Smoothed fraction of the goal: 0 as before, 1 as asked; None while nothing was measured."""
    samples: int
    """Latent samples trained since the last event."""
    seconds: float
    """Time since the last event."""
    memory_bytes: int
    """Peak memory of the device, or of the process where the device is the CPU."""
    effect: float | None = None
    """How far pictures of the targets moved along the concept, which is 1; smoothed, None as above."""
    side_effect: float | None = None
    """How far they moved beside that direction, in the same unit."""
    drift: float | None = None
    """How far pictures of untouched prompts moved, in the same unit."""

    @property
    def measured(self) -> dict[str, float]:
        """Goal, effects and drift by name, as far as they were measured."""
        found = {name: getattr(self, name) for name in ("goal_reached", "effect", "side_effect", "drift")}
        return {name: figure for name, figure in found.items() if figure is not None}


@dataclass(frozen=True)
class Saved:
    """A file was written."""

    path: Path
    step: int
    final: bool


@dataclass(frozen=True)
class PicturesDrawn:
    """A strip was written: a row for each seed, a column for each strength of the LoRA."""

    path: Path
    step: int
    prompt: str
    seeds: tuple[int, ...]
    multipliers: tuple[float, ...]
    """0 is the base model."""
    number: int
    """Which of those that are drawn after this step, from 1."""
    of: int
    framed: bool = True
    """Whether the pictures are on a sheet with their strengths above; a host's own picture is not."""


@dataclass(frozen=True)
class Warned:
    """Something the user has to know; the run goes on."""

    message: str


@dataclass(frozen=True)
class RunEnded:
    """The run is over; its last file is written."""

    path: Path
    steps: int
    seconds: float
    interrupted: bool
    goal_reached: float | None = None
    """As the last StepDone says it, like those below."""
    effect: float | None = None
    side_effect: float | None = None
    drift: float | None = None
    means: str = ""
    """The effect in words."""


Event = RunStarted | StepDone | Saved | PicturesDrawn | Warned | RunEnded
