"""The hooks that a plugin may implement; all are called while a run is set up, none in a training step.

A plugin is a module or object whose functions carry ``@leco_plugin.hookimpl``. Installed packages are found by
the entry-point group ``leco_plugin``. A function marked so whose name is no hook stops the start.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import torch

    from leco_plugin.config.run import RunDescription
    from leco_plugin.config.schema import JobConfig
    from leco_plugin.contracts import Denoiser, Hooks, Host, Network, Observer, Pictures, Process

hookspec = pluggy.HookspecMarker("leco_plugin")
hookimpl = pluggy.HookimplMarker("leco_plugin")


@hookspec
def leco_host(hooks: Hooks) -> Host | None:
    """Return the host that you offer; import it when it is used, not before.

    Called once per run, first of all, and by `leco host`. All plugins are asked, and the host that the user names is
    used; of two with one name, that of the plugin registered last. Raise ``PluginError`` where yours cannot be offered.
    """


@hookspec(firstresult=True)
def leco_process(type: str, job: JobConfig, hooks: Hooks) -> Process | None:
    """Return a training process for the job's ``type:`` if it is yours, else None.

    Called once per run by the built-in host. The plugin registered last is asked first.
    Raise ``ConfigError`` where the type is yours and the job cannot be run.
    """


@hookspec(firstresult=True)
def leco_load_model(job: JobConfig, device: torch.device) -> Denoiser | None:
    """Load the model that ``job.model`` names if this plugin knows it, else return None.

    Called once per run, before a network is attached. The plugin registered last is asked first.
    Raise ``ModelError`` only where the model is yours and cannot be loaded.
    """


@hookspec(firstresult=True)
def leco_create_network(job: JobConfig, denoiser: Denoiser, seed: int) -> Network | None:
    """Attach the network that ``job.network`` asks for to the model if its type is yours, else return None.

    Called once per run, after the model is loaded; ``seed`` fixes the initial weights. The plugin registered last
    is asked first. Raise ``NetworkError`` where the network is yours and cannot be made.
    """


@hookspec(firstresult=True)
def leco_pictures(job: JobConfig, denoiser: Denoiser, network: Network) -> Pictures | None:
    """Return what draws pictures while the run goes on, as ``job.sample`` asks, else None.

    Called once per run, after the network is attached and before the first step: encode prompts now. It is asked to
    draw before the first step, every ``job.sample.sample_every`` steps and after the last. The plugin registered last
    is asked first.
    """


@hookspec
def leco_observers(run: RunDescription) -> Iterable[Observer]:
    """Return observers of this run in whatever host: views, loggers, whatever wants to know of its events.

    Called once per run, before anything heavy is loaded. All plugins' observers are used; there is no order among
    them. Of a run in several processes, the first one asks alone. Return an empty list to stay out.
    """
    return ()
