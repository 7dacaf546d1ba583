"""The training process `leco` as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leco_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from leco_plugin.config.schema import JobConfig
    from leco_plugin.contracts import Hooks
    from leco_plugin.hosts.builtin.process import LecoProcess


@hookimpl
def leco_process(type: str, job: JobConfig, hooks: Hooks) -> LecoProcess | None:
    """`type: leco`."""
    from leco_plugin.hosts.builtin.process import LecoProcess

    return LecoProcess(job, hooks) if type == "leco" else None
