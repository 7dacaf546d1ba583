"""Which plugins there are: the built-in ones by name, then installed packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import cast

import pluggy

from leco_plugin import hookspecs
from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Hooks, Host, RunResult
from leco_plugin.errors import PluginError

ENTRY_POINTS = "leco_plugin"
BUILT_IN = {
    # before the observers, whose history it reads: what is registered later hears of an event earlier
    "report": "leco_plugin.report.plugin",
    "ai-toolkit": "leco_plugin.hosts.ai_toolkit.plugin",
    "builtin-host": "leco_plugin.hosts.builtin.plugin",
    "builtin-model": "leco_plugin.families.plugin",
    "builtin-network": "leco_plugin.network.plugin",
    "leco-process": "leco_plugin.hosts.builtin.process_plugin",
    "onetrainer": "leco_plugin.hosts.onetrainer.plugin",
    "observers": "leco_plugin.observers.plugin",
    "pictures": "leco_plugin.pictures.plugin",
}


def plugin_manager(extra: Sequence[object] = (), *, installed: bool = True) -> pluggy.PluginManager:
    """A manager with the built-in plugins, then those of installed packages, then ``extra``.

    The last registered wins where a hook takes one answer. Raises PluginError for a function that is marked as a
    hook and is none, or has arguments that the hook does not offer.
    """
    manager = pluggy.PluginManager("leco_plugin")
    manager.add_hookspecs(hookspecs)
    for name, module in BUILT_IN.items():
        manager.register(import_module(module), name)
    try:
        if installed:
            _load_installed(manager)
        for plugin in extra:
            manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        name = manager.get_name(error.plugin) or repr(error.plugin)
        raise PluginError(f"plugin {name}: {error}", fix=_hook_names()) from error
    return manager


def run_job(job: JobConfig, *, host: str = "builtin", manager: pluggy.PluginManager | None = None) -> RunResult:
    """Run a job in the host called ``host``; LecoError for whatever the user can put right."""
    manager = manager or plugin_manager()
    found = find_host(host, manager)
    run: Callable[[JobConfig], RunResult] | None = getattr(found, "run", None)
    if run is None:
        raise PluginError(f"the host {host} does not run jobs of `leco train`", fix="leco host lists what it does")
    return run(job)


def hosts(manager: pluggy.PluginManager) -> dict[str, Host]:
    """Every host by its name, in the order in which their plugins were registered."""
    offered: list[Host] = manager.hook.leco_host(hooks=cast(Hooks, manager.hook))
    # the plugin registered last answers first; of two with one name, that one stays
    return {host.name: host for host in reversed(offered)}


def find_host(name: str, manager: pluggy.PluginManager) -> Host:
    """The host of this name; PluginError where no plugin offers it."""
    known = hosts(manager)
    if name not in known:
        raise PluginError(f"no plugin offers a host called {name!r}", fix=f"there are {', '.join(known)}")
    return known[name]


def _load_installed(manager: pluggy.PluginManager) -> None:
    try:
        manager.load_setuptools_entrypoints(ENTRY_POINTS)
    except pluggy.PluginValidationError:
        raise
    # importing it runs somebody else's code: whatever that raises, the user has to know which kind of thing failed
    except Exception as error:
        message = f"an installed plugin cannot be loaded: {type(error).__name__}: {error}"
        raise PluginError(message, fix="update or uninstall the package that it came with") from error


def _hook_names() -> str:
    return "the hooks are " + ", ".join(name for name in vars(hookspecs) if name.startswith("leco_"))
