"""TensorBoard and Weights & Biases, through accelerate's trackers: the figures of the console, for later."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Protocol, cast

from leco_plugin.config.run import RunDescription
from leco_plugin.config.schema import LoggingConfig
from leco_plugin.errors import ConfigError
from leco_plugin.events import Event, RunEnded, RunStarted, StepDone

DEFAULT_NAME = "leco_train"
_PACKAGES: Mapping[str, Sequence[str]] = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
Figure = bool | int | float | str


class Tracker(Protocol):
    """What accelerate's trackers have in common."""

    def store_init_configuration(self, values: dict[str, Figure]) -> None:
        """The settings of the run."""

    def log(self, values: dict[str, Figure], step: int | None) -> None:
        """Figures of one step."""

    def finish(self) -> None:
        """The run is over."""


class Trackers:
    """Hands what a run reports to trackers, which are made when it starts."""

    def __init__(self, run: RunDescription, make: Callable[[LoggingConfig, str], list[Tracker]] | None = None) -> None:
        self._run, self._make = run, make or make_trackers
        self._trackers: list[Tracker] = []

    def notify(self, event: Event) -> None:
        """Start, log or finish."""
        if isinstance(event, RunStarted):
            self._trackers = self._make(self._run.logging, time.strftime("%Y%m%d%H%M%S"))
            for tracker in self._trackers:
                tracker.store_init_configuration(dict(self._run.options))
        elif isinstance(event, StepDone):
            for tracker in self._trackers:
                tracker.log(figures(event), step=event.step)
        elif isinstance(event, RunEnded):
            for tracker in self._trackers:
                tracker.finish()


def check_logging(logging: LoggingConfig) -> None:
    """Raise ConfigError where a tracker that is asked for is not installed."""
    for name in wanted_trackers(logging):
        packages = _PACKAGES[name]
        if not any(find_spec(package) for package in packages):
            raise ConfigError(
                f"log_with {name} needs the package {packages[0]}, which is not installed",
                fix=f"pip install {packages[0]}, or leave log_with and logging_dir out",
            )


def wanted_trackers(logging: LoggingConfig) -> tuple[str, ...]:
    """Names of the trackers; a folder alone means TensorBoard."""
    if logging.log_with == "all":
        return tuple(_PACKAGES)
    if logging.log_with:
        return (logging.log_with,)
    return ("tensorboard",) if logging.logging_dir else ()


def make_trackers(logging: LoggingConfig, now: str) -> list[Tracker]:
    """The trackers that ``logging`` asks for, started; they write into a folder of the prefix and ``now``."""
    # late: accelerate takes a second, and most runs have no tracker
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    # trackers ask it whether this is the main process
    PartialState()
    name = logging.log_tracker_name or DEFAULT_NAME
    folder = logging.logging_dir / f"{logging.log_prefix}{now}" if logging.logging_dir else None
    trackers = []
    for kind in wanted_trackers(logging):
        if kind == "tensorboard":
            tracker = TensorBoardTracker(name, logging_dir=folder)
        else:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
            tracker = WandBTracker(name, name=logging.wandb_run_name, dir=str(folder) if folder else None)
        # accelerate before 1.8 starts a tracker when it is made
        getattr(tracker, "start", lambda: None)()
        trackers.append(cast(Tracker, tracker))
    return trackers


def figures(event: StepDone) -> dict[str, Figure]:
    """What the console shows of a step."""
    shown: dict[str, Figure] = {
        "loss": event.loss,
        "lr": event.learning_rate,
        "samples_per_second": event.samples / max(event.seconds, 1e-9),
        "memory_gib": event.memory_bytes / 2**30,
    }
    # not measured by every job
    return {**shown, **event.measured}
