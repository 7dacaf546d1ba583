"""The built-in host: diffusers models and PEFT networks, with nothing else installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leco_plugin.errors import PluginError
from leco_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from leco_plugin.config.schema import JobConfig
    from leco_plugin.contracts import Hooks, RunResult


class BuiltinHost:
    """Runs the process that the job asks for, in this Python."""

    name = "builtin"
    about = "diffusers models and PEFT networks, with nothing else installed: leco train JOB"

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def run(self, job: JobConfig) -> RunResult:
        """Run the job's process from start to end."""
        process = self._hooks.leco_process(type="leco", job=job, hooks=self._hooks)
        if process is None:
            raise PluginError("no plugin offers the process 'leco'")
        return process.run()


@hookimpl
def leco_host(hooks: Hooks) -> BuiltinHost:
    """The host `builtin`."""
    return BuiltinHost(hooks)
