"""Several runs on one screen: a bar for each, as far as it is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from leco_plugin.events import Event, RunStarted, StepDone, Warned
from leco_plugin.observers.console.figures import amount


class ManyView:
    """A screen with a line for every run, as a block; lines of text where there is no terminal."""

    def __init__(self, names: Sequence[str]) -> None:
        self._console = Console()
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("effect {task.fields[effect]}"),
            TextColumn("{task.fields[state]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            expand=True,
        )
        most = self._console.width // 3
        self._tasks = {
            name: self._progress.add_task(_end(name, most), total=None, effect="-", state="waits")
            for name in dict.fromkeys(names)
        }

    def __enter__(self) -> ManyView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def notify(self, name: str, event: Event) -> None:
        """Draw what the run of this name reports."""
        if isinstance(event, RunStarted):
            self._progress.update(self._tasks[name], total=event.steps, completed=event.done, state="trains")
        elif isinstance(event, StepDone):
            self._progress.update(self._tasks[name], completed=event.step, effect=amount(event.effect))
        elif isinstance(event, Warned):
            self.say(f"{name}: warning: {event.message}")

    def state(self, name: str, state: str) -> None:
        """Where the run of this name is, in a few words."""
        self._progress.update(self._tasks[name], state=state)
        if self._progress.disable:
            self.say(f"{name}: {state}")

    def say(self, line: str) -> None:
        """A line above the bars."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _end(name: str, most: int) -> str:
    """What fits of a path; its end is what tells it from others."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
