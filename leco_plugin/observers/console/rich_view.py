"""A run on a terminal: a table at the start, then one live line."""

from __future__ import annotations

import atexit
import re
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from leco_plugin.events import Event, PicturesDrawn, RunEnded, RunStarted, Saved, StepDone, Warned
from leco_plugin.observers.console import figures
from leco_plugin.observers.console.pages import folded

_COLUMNS = {
    "loss {loss}": 11,
    "effect {effect}": 12,
    "side {side}": 10,
    "drift {drift}": 11,
    "goal {goal}": 11,
    "lr {lr}": 10,
    "{speed}/s": 15,
    "{memory}": 9,
    "{left} left": 12,
}
"""What is shown beside the bar, in this order, and how wide it may get."""
_FIRST = ("{left} left", "effect {effect}", "drift {drift}", "loss {loss}", "side {side}", "goal {goal}", "{speed}/s")
"""What a narrow terminal shows; the rest where there is room."""
_BAR = 40
"""Columns that the line needs besides: what is done, how many steps of how many, and a bar that can be read."""


class RichView:
    """Draws what the run reports; knows nothing of torch or of the loop."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pace = figures.Pace()
        figures_shown = (TextColumn(_field(column)) for column in _fitting(console.width - _BAR))
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            *figures_shown,
            console=console,
            expand=True,
        )
        blank: dict[str, Any] = dict.fromkeys(re.findall(r"{(\w+)}", "".join(_COLUMNS)), "-")
        self._task = self._progress.add_task("training", total=None, **blank)

    def notify(self, event: Event) -> None:
        """Draw what ``event`` tells."""
        if isinstance(event, RunStarted):
            self._started(event)
        elif isinstance(event, StepDone):
            self._step_done(event)
        elif isinstance(event, Saved):
            self._console.print(f"[green]{escape(figures.saved(event))}", soft_wrap=True)
        elif isinstance(event, PicturesDrawn):
            self._pictures_drawn(event)
        elif isinstance(event, Warned):
            self._console.print(f"[bold yellow]warning:[/] {escape(event.message)}")
        elif isinstance(event, RunEnded):
            self._progress.stop()
            atexit.unregister(self._progress.stop)
            style = "yellow" if event.interrupted else "bold green"
            said = folded(figures.ended(event), self._console.width)
            self._console.print(f"[{style}]{escape(said)}", soft_wrap=True)

    def _started(self, event: RunStarted) -> None:
        table = Table(title=f"LECO: {escape(event.name)}", show_header=False, title_justify="left")
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in event.facts:
            table.add_row(label, escape(value))
        self._console.print(table)
        self._progress.update(self._task, total=event.steps)
        # a run that fails has no end to report, and would leave the terminal without a cursor
        atexit.register(self._progress.stop)
        self._progress.start()

    def _pictures_drawn(self, event: PicturesDrawn) -> None:
        line = figures.drawn(event)
        busy = f"drawing {event.number}/{event.of}"
        self._progress.update(self._task, description="training" if line else busy)
        if line:
            self._console.print(f"[green]{escape(line)}", soft_wrap=True)

    def _step_done(self, event: StepDone) -> None:
        speed, left = self._pace.add(event)
        self._progress.update(
            self._task,
            completed=event.step,
            loss=f"{event.loss:.4f}",
            effect=figures.amount(event.effect),
            side=figures.amount(event.side_effect),
            drift=figures.amount(event.drift),
            goal=figures.percentage(event.goal_reached),
            lr=f"{event.learning_rate:.1e}",
            speed=f"{speed:.1f} samples",
            memory=figures.memory(event.memory_bytes),
            left=figures.duration(left),
        )


def _fitting(room: int) -> list[str]:
    """The columns for a line with so much ``room``, in their order."""
    chosen: set[str] = set()
    for column in (*_FIRST, *_COLUMNS):
        if column not in chosen and sum(_COLUMNS[one] + 1 for one in (*chosen, column)) <= room:
            chosen.add(column)
    return [column for column in _COLUMNS if column in chosen]


def _field(column: str) -> str:
    """``loss {loss}`` as the template of a task's field."""
    return column.replace("{", "{task.fields[").replace("}", "]}")
