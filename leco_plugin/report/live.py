"""The report of a run while it goes on, where a host shows pages of its jobs."""

from __future__ import annotations

import time
from pathlib import Path

from leco_plugin.atomic import write_atomically
from leco_plugin.events import Event, RunEnded, RunStarted, Saved
from leco_plugin.observers.history import history_path
from leco_plugin.report.run import find_run
from leco_plugin.report.write import page_of

SECONDS = 60.0
"""Between two pages, but for those that something happened for."""


class LivePage:
    """Writes the page of a run anew when a file is saved, at the end, and about once a minute."""

    def __init__(self, folder: Path, name: str, page: Path) -> None:
        self._history, self._page = history_path(folder, name), page
        self._written = float("-inf")
        self._started = False

    def notify(self, event: Event) -> None:
        """Write the page where ``event`` is worth it; the history has the event already."""
        self._started = self._started or isinstance(event, RunStarted)
        due = isinstance(event, RunStarted | Saved | RunEnded) or time.monotonic() - self._written > SECONDS
        if self._started and due:
            write_atomically(self._page, page_of(find_run(self._history)).encode())
            self._written = time.monotonic()
