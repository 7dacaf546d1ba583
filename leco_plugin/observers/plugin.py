"""The observers of every run, as a plugin."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from leco_plugin.config.run import RunDescription
from leco_plugin.contracts import Observer
from leco_plugin.hookspecs import hookimpl


@hookimpl
def leco_observers(run: RunDescription) -> Iterable[Observer]:
    """The console, the history that `leco report` reads, and the trackers that the job asks for."""
    # a host that brings its own console needs neither rich nor accelerate
    from leco_plugin.observers.console.plain_view import PlainView
    from leco_plugin.observers.history import HistoryWriter
    from leco_plugin.observers.trackers import Trackers, check_logging, wanted_trackers

    check_logging(run.logging)
    trackers = [Trackers(run)] if wanted_trackers(run.logging) else []
    if run.own_console:
        from leco_plugin.observers.console.beside_bars import BesideBars

        return [PlainView(BesideBars(), BesideBars.SECONDS), HistoryWriter(run), *trackers]
    from leco_plugin.observers.console.view import console_view

    return [console_view(sys.stdout), HistoryWriter(run), *trackers]
