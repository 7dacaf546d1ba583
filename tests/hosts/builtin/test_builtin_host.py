"""The built-in host: translation only."""

from __future__ import annotations

from models import tiny_job

from leco_plugin.hosts.builtin import plugin as builtin
from leco_plugin.plugins import plugin_manager


class Process:
    """A process that remembers what it was made of."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def leco_process(self, *, type: str, job: object, hooks: object) -> Process:
        self.asked += [type, job, hooks]
        return self

    def run(self) -> str:
        return "what the process returns"


def test_it_is_found_by_its_name():
    """Which is the one that `leco train` takes where none is given."""
    hooks = plugin_manager(installed=False).hook
    assert builtin.leco_host(hooks).name == builtin.BuiltinHost.name == "builtin"


def test_it_runs_the_process_that_the_hooks_give_it(tmp_path):
    """With the job and the hooks, and returns what comes of it."""
    hooks, job = Process(), tiny_job(tmp_path)
    assert builtin.BuiltinHost(hooks).run(job) == "what the process returns"
    assert hooks.asked == ["leco", job, hooks]
