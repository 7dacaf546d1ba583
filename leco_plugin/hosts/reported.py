"""A run in events where another trainer has the loop: what the built-in loop reports, from where a host calls us."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import torch

from leco_plugin.config.run import RunDescription
from leco_plugin.engine.progress import Progress
from leco_plugin.engine.report import Meter, Report
from leco_plugin.engine.step import StepResult
from leco_plugin.events import PicturesDrawn, RunEnded, RunStarted, Saved, StepDone, Warned
from leco_plugin.plugins import plugin_manager

REPORT_EVERY = 10
"""Optimizer steps between two reports on an accelerator, where each has to wait for the device."""


class Reported:
    """Tells the observers of all plugins what happens in a run of a host."""

    def __init__(self, run: RunDescription) -> None:
        """Ask for the observers; LecoError where one cannot be had."""
        manager = plugin_manager()
        self._run, self._began = run, time.perf_counter()
        self._report = Report(one for some in manager.hook.leco_observers(run=run) for one in some)
        self._said: set[str] = set()
        self._over = False

    def prepare(self, progress: Progress, steps: int, device: torch.device) -> None:
        """The run will have so many optimizer steps on ``device``."""
        self._progress, self._steps = progress, steps
        self.meter = Meter(device, steps, progress)
        """What was measured and not yet reported; a host stores it with its own state."""
        self._every = 1 if device.type == "cpu" else REPORT_EVERY

    def start(self, facts: Iterable[tuple[str, str]], done: int) -> None:
        """Everything is loaded, and ``done`` optimizer steps have been done before."""
        self._report(RunStarted(self._run.name, self._steps, tuple(facts), done))
        self.meter.start()

    def step(self, result: StepResult) -> None:
        """A LECO step is done; several make an optimizer step where gradients are accumulated."""
        self.meter.add(result)

    def optimizer_step(self, done: int, learning_rate: float) -> StepDone | None:
        """So many optimizer steps are done; gives the event where one is due."""
        if done % self._every and done != self._steps:
            return None
        event = self.meter.sum_up(done, learning_rate)
        self._report(event)
        # early: nobody has to wait for the end to learn that a run is worthless
        self.warn(self._progress.unseen())
        return event

    def saved(self, path: Path, step: int, *, final: bool) -> None:
        """A LoRA file was written."""
        self._report(Saved(path, step, final))

    def drew(self, event: PicturesDrawn) -> None:
        """A picture was written."""
        self._report(event)

    def warn(self, messages: Iterable[str]) -> None:
        """Say each message once in a run."""
        for message in messages:
            if message not in self._said:
                self._said.add(message)
                self._report(Warned(message))

    def end(self, path: Path, done: int, *, interrupted: bool) -> None:
        """The run is over, and what it learned is in ``path``; further calls do nothing."""
        if self._over:
            return
        self._over = True
        if not interrupted:
            self.warn(self._progress.complaints())
        seconds, progress = time.perf_counter() - self._began, self._progress
        self._report(RunEnded(path, done, seconds, interrupted, **progress.figures, means=progress.means))
