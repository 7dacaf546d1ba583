"""Starts a run: the host's own sequence of load, train and save, with our trainer in the place of its own."""

from __future__ import annotations

import copy
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any

from leco_plugin.config.build import LoadedPrompts, load_prompts
from leco_plugin.config.idle import refuse_nothing
from leco_plugin.engine.setup import draw_seed
from leco_plugin.engine.stop import Stop, stop_on_signal
from leco_plugin.errors import ConfigError, PluginError
from leco_plugin.hosts.folders import remember
from leco_plugin.hosts.onetrainer import contract, host_config
from leco_plugin.hosts.onetrainer.checkout import TESTED
from leco_plugin.hosts.onetrainer.description import describe
from leco_plugin.hosts.onetrainer.flags import Flags, read_flags, read_window_flags
from leco_plugin.hosts.onetrainer.network import refuse_strengths
from leco_plugin.hosts.onetrainer.run import Plan
from leco_plugin.hosts.onetrainer.section import read_config_file, settled_run
from leco_plugin.hosts.onetrainer.trainer import TrainerMixin
from leco_plugin.hosts.reported import Reported
from leco_plugin.streams import write_lines

DONE, INTERRUPTED = 0, 130
_WINDOW = "train_ui.py"
"""The host's script of its window, under the name that other launchers start it by."""


def run(arguments: Sequence[str]) -> int:
    """Train as a command line says; the exit code. LecoError for what the user can put right."""
    flags = read_flags(arguments)
    prompts = _prompts(flags)
    # what is wrong in these is said at once: importing the host takes 20 s
    for path in (flags.config, flags.preset, flags.secrets):
        if path:
            read_config_file(path)
    host = _enter(flags)
    config = host_config.read_config(host, flags)
    with stop_on_signal() as stop:
        trainer = _trainer(host, flags, prompts, config, host.callbacks(), host.commands(), stop)
        try:
            trainer.start()
            trainer.train()
        finally:
            # whatever happens: the host ends its TensorBoard there, which would go on for ever
            trainer.end()
    return INTERRUPTED if trainer.leco_interrupted else DONE


def ui(arguments: Sequence[str]) -> int:
    """Open the host's window, whose button *Start Training* then starts LECO; the exit code."""
    flags = read_window_flags(arguments)
    script = flags.root / "scripts" / _WINDOW
    # a mistake is told before the window opens
    _prompts(flags)
    host = _enter(flags)
    if not script.is_file():
        raise PluginError(f"this OneTrainer has no {script}", fix=f"use commit {TESTED}")

    def create(config: Any, callbacks: Any, commands: Any, **more: Any) -> OnStart:
        # a copy: what LECO changes in it is not to be seen in the window, nor stored by it
        own = copy.deepcopy(config)
        # read anew: the user may have changed them since the last run
        return OnStart(lambda: _trainer(host, flags, _prompts(flags), own, callbacks, commands, Stop()))

    host.create.create_trainer = create
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except ImportError as error:
        raise PluginError(f"OneTrainer's window cannot be opened: {error}", fix="run its install script") from error
    return DONE


class OnStart:
    """A trainer that is made when the window starts it: there it expects errors, and shows that there was one."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._own: Any = None

    def start(self) -> None:
        """Make it, and load the model; LecoError for what the user can put right, which the window prints."""
        self._own = self._make()
        self._own.start()

    def train(self) -> None:
        """Train."""
        self._own.train()

    def end(self) -> None:
        """Save, where something was learnt."""
        if self._own:
            self._own.end()


def _prompts(flags: Flags) -> LoadedPrompts:
    loaded = load_prompts(flags.prompts)
    refuse_nothing(loaded.pairs)
    return loaded


def _enter(flags: Flags) -> contract.Host:
    host = contract.enter(flags.root)
    remember("onetrainer", flags.root)
    return host


def _trainer(
    host: contract.Host, flags: Flags, prompts: LoadedPrompts, config: Any, callbacks: Any, commands: Any, stop: Stop
) -> Any:
    """Our trainer for ``config``, which it changes to what LECO needs; LecoError for what cannot be trained."""
    host_config.refuse(host, config)
    plan = _plan(flags, prompts, config)
    # what is preserved is so at both ends
    refuse_strengths(config, {pair.multiplier for pair in plan.pairs} | ({-1.0} if plan.leco.preserve else set()))
    write_lines(sys.stdout, (f"LECO: {line}" for line in host_config.adapt(host, config)))
    reported = Reported(describe(plan, config))
    reported.warn([*map(str, prompts.warnings), *host_config.doubts(config, plan.steps)])
    mixed: Any = type("LecoTrainer", (TrainerMixin, host.trainer), {})
    trainer = mixed(config, callbacks, commands)
    trainer.leco_host, trainer.leco_plan, trainer.leco_signal, trainer.leco_reported = host, plan, stop, reported
    return trainer


def _plan(flags: Flags, prompts: LoadedPrompts, config: Any) -> Plan:
    flow = config.model_type.is_flow_matching()
    if flow and flags.sampler:
        raise ConfigError(
            f"--noise-scheduler {flags.sampler}: {config.model_type} is a flow, walked by Euler's steps",
            fix="remove it",
        )
    job = settled_run(prompts, flags.leco, host_config.said(config, flags)).job
    return Plan(
        pairs=job.pairs,
        leco=job.leco,
        settings=host_config.step_settings(config, job.leco),
        sampler="flow" if flow else flags.sampler or "ddim",
        epoch_steps=host_config.set_steps(config, flags),
        seed=draw_seed() if flags.seed is None else flags.seed,
        epochs=config.epochs,
        accumulation=config.gradient_accumulation_steps,
    )
