"""A run as plain lines, for logs and pipes."""

from __future__ import annotations

import time
from typing import Protocol

from leco_plugin.events import Event, PicturesDrawn, RunEnded, RunStarted, Saved, StepDone, Warned
from leco_plugin.observers.console import figures
from leco_plugin.streams import write_lines

SECONDS_BETWEEN_LINES = 10.0


class Output(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> int:
        """Write a whole line."""

    def flush(self) -> None:
        """Have it seen."""


class PlainView:
    """Writes a line now and then; the first and the last step always get one."""

    def __init__(self, out: Output, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        """Write to ``out``, steps at most every so many ``seconds``."""
        self._out, self._seconds = out, seconds
        self._pace = figures.Pace()
        self._last_line = float("-inf")

    def notify(self, event: Event) -> None:
        """Write what ``event`` tells, if it is worth a line."""
        write_lines(self._out, self._lines(event))
        self._out.flush()

    def _lines(self, event: Event) -> list[str]:
        if isinstance(event, RunStarted):
            return [f"{label}: {value}" for label, value in event.facts]
        if isinstance(event, StepDone):
            return self._step(event)
        if isinstance(event, Saved):
            return [figures.saved(event)]
        if isinstance(event, PicturesDrawn):
            return [line] if (line := figures.drawn(event)) else []
        if isinstance(event, Warned):
            return [f"warning: {event.message}"]
        if isinstance(event, RunEnded):
            return [figures.ended(event)]
        return []

    def _step(self, event: StepDone) -> list[str]:
        speed, left = self._pace.add(event)
        now = time.monotonic()
        if event.step != event.steps and now - self._last_line < self._seconds:
            return []
        self._last_line = now
        return [
            f"step {event.step}/{event.steps}  loss {event.loss:.5f}  "
            f"effect {figures.amount(event.effect)}  side {figures.amount(event.side_effect)}  "
            f"drift {figures.amount(event.drift)}  goal reached {figures.percentage(event.goal_reached)}  "
            f"lr {event.learning_rate:.2e}  {speed:.1f} samples/s  "
            f"{figures.memory(event.memory_bytes)}  {figures.duration(left)} left"
        ]
