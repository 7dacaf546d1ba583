"""The training process `leco`, and the trackers that log it, as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leco_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leco_plugin.config.schema import JobConfig
    from leco_plugin.contracts import Hooks, Observer
    from leco_plugin.engine.process import LecoProcess


@hookimpl
def leco_process(type: str, job: JobConfig, hooks: Hooks) -> LecoProcess | None:
    """`type: leco`."""
    from leco_plugin.engine.process import LecoProcess

    return LecoProcess(job, hooks) if type == "leco" else None


@hookimpl
def leco_observers(job: JobConfig) -> Iterable[Observer]:
    """The trackers that the job asks for; ConfigError where one is not installed."""
    from leco_plugin.engine.trackers import Trackers, check_logging, wanted_trackers

    check_logging(job.logging)
    return [Trackers(job)] if wanted_trackers(job.logging) else []
