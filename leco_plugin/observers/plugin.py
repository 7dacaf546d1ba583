"""The observers of every run, as a plugin."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Observer
from leco_plugin.hookspecs import hookimpl


@hookimpl
def leco_observers(job: JobConfig) -> Iterable[Observer]:
    """The console, the history that `leco report` reads, and the trackers that the job asks for."""
    # a run in a host that brings its own console needs neither rich nor accelerate before this
    from leco_plugin.observers.console.view import console_view
    from leco_plugin.observers.history import HistoryWriter
    from leco_plugin.observers.trackers import Trackers, check_logging, wanted_trackers

    check_logging(job.logging)
    trackers = [Trackers(job)] if wanted_trackers(job.logging) else []
    return [console_view(sys.stdout), HistoryWriter(job), *trackers]
