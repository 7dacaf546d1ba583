"""Which plugins there are: the built-in ones by name, then installed packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata
from traceback import walk_tb
from types import ModuleType
from typing import Any, cast

import pluggy

from leco_plugin import hookspecs
from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Hooks, Host, RunResult
from leco_plugin.errors import LecoError, PluginError, is_out_of_memory, reason

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
_MANY = "leco_observers"
"""The hook with an answer of several."""
_NEEDED: Mapping[str, Sequence[str]] = {
    "leco_host": ("name",),
    "leco_process": ("run",),
    "leco_load_model": ("device", "module", "encode", "latent_shape", "predict", "sampler"),
    "leco_create_network": ("parameters", "multiplier", "save"),
    "leco_pictures": ("draw",),
    _MANY: ("notify",),
}
"""What no answer of a hook can do without; contracts.py has all of it."""
_UPDATE = "update or uninstall the package that the plugin came with, or tell its author"


class Plugins(pluggy.PluginManager):
    """A manager under which a hook that fails, or answers with what it may not, is an error with plugin and hook."""

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Register ``plugin``; what its hooks do is watched from then on."""
        registered = super().register(plugin, name)
        for caller in self.get_hookcallers(plugin) or ():
            for one in caller.get_hookimpls():
                if one.plugin is plugin and not (one.wrapper or one.hookwrapper):
                    one.function = _watched(_called(plugin, one.plugin_name), caller.name, one.function)  # type: ignore[misc]
        return registered


def plugin_manager(extra: Sequence[object] = (), *, installed: bool = True) -> Plugins:
    """A manager with the built-in plugins, then those of installed packages, then ``extra``.

    The last registered wins where a hook takes one answer. Raises PluginError for a function that is marked as a
    hook and is none, or has arguments that the hook does not offer.
    """
    manager = Plugins("leco_plugin")
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
    try:
        result = run(job)
    except LecoError:
        raise
    except (Exception, SystemExit) as error:
        plugin = _culprit(error, manager)
        if plugin is None or is_out_of_memory(error):
            raise
        message = f"plugin {plugin} failed in the run: {type(error).__name__}: {reason(error)}"
        raise PluginError(message, fix=_UPDATE) from error
    wrong = _wrong(result, ("path", "steps", "interrupted"))
    if wrong:
        raise PluginError(f"the host {host!r} ended its run with {wrong}", fix=_UPDATE)
    return result


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
    entries = [entry for found in metadata.distributions() for entry in found.entry_points]
    for name in dict.fromkeys(entry.name for entry in entries if entry.group == ENTRY_POINTS):
        try:
            manager.load_setuptools_entrypoints(ENTRY_POINTS, name)
        except pluggy.PluginValidationError:
            raise
        # importing it runs somebody else's code, which may do anything
        except (Exception, SystemExit) as error:
            message = f"the installed plugin {name} cannot be loaded: {type(error).__name__}: {reason(error)}"
            raise PluginError(message, fix=_UPDATE) from error


def _watched(plugin: str, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which is the ``hook`` of ``plugin``; PluginError for what it raises and answers amiss."""

    def watched(*arguments: object) -> object:
        try:
            answer = function(*arguments)
            # all at once: what makes them one by one may fail in the middle
            answers = list(answer or ()) if hook == _MANY else [] if answer is None else [answer]
        except (LecoError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if is_out_of_memory(error):
                raise
            message = f"plugin {plugin}: {hook} failed: {type(error).__name__}: {reason(error)}"
            raise PluginError(message, fix=_UPDATE) from error
        wrong = next(filter(None, (_wrong(one, _NEEDED.get(hook, ())) for one in answers)), None)
        if wrong:
            raise PluginError(f"plugin {plugin}: {hook} answered with {wrong}", fix=_UPDATE)
        return answers if hook == _MANY else answer

    return watched


def _wrong(answer: object, needed: Sequence[str]) -> str | None:
    """What is wrong with an answer that should offer all that is ``needed``."""
    if isinstance(answer, type):
        return f"the class {answer.__name__}, not with an object of it"
    missing = [name for name in needed if not hasattr(answer, name)]
    return f"a {type(answer).__name__}, which has no {' and no '.join(missing)}" if missing else None


def _culprit(error: BaseException, manager: pluggy.PluginManager) -> str | None:
    """The plugin of somebody else in whose code ``error`` arose, if it did not arise in ours."""
    found = [(name, plugin) for name, plugin in manager.list_name_plugin() if name not in BUILT_IN]
    others = {_package(plugin): _called(plugin, name) for name, plugin in found if _package(plugin) != "leco_plugin"}
    frames = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    packages = [name.partition(".")[0] for name in frames]
    innermost = next((name for name in reversed(packages) if name == "leco_plugin" or name in others), None)
    return others.get(innermost or "")


def _called(plugin: object, name: str) -> str:
    """What users know a plugin by: pluggy calls one without a name by a number."""
    return type(plugin).__name__ if name.isdigit() else name


def _package(plugin: object) -> str:
    module: str = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__
    return module.partition(".")[0]


def _hook_names() -> str:
    return "the hooks are " + ", ".join(name for name in vars(hookspecs) if name.startswith("leco_"))
