"""Starts a run: the host's own sequence of load, train and save, with our trainer in the place of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from leco_plugin.config.build import load_prompts
from leco_plugin.config.idle import refuse_nothing
from leco_plugin.config.schema import PromptPair
from leco_plugin.engine.setup import draw_seed
from leco_plugin.engine.stop import Stop, stop_on_signal
from leco_plugin.errors import ConfigError, ModelError
from leco_plugin.hosts.folders import remember
from leco_plugin.hosts.onetrainer import contract, host_config
from leco_plugin.hosts.onetrainer.description import describe
from leco_plugin.hosts.onetrainer.flags import Flags, read_flags
from leco_plugin.hosts.onetrainer.network import refuse_strengths
from leco_plugin.hosts.onetrainer.run import Plan
from leco_plugin.hosts.onetrainer.trainer import TrainerMixin
from leco_plugin.hosts.reported import Reported
from leco_plugin.streams import write_lines

DONE, INTERRUPTED = 0, 130


def run(arguments: Sequence[str]) -> int:
    """Train as a command line says; the exit code. LecoError for what the user can put right."""
    flags = read_flags(arguments)
    loaded = load_prompts(flags.prompts)
    refuse_nothing(loaded.pairs)
    # what is wrong in these is said at once: importing the host takes 20 s
    for path in (flags.config, flags.preset, flags.secrets):
        if path:
            host_config.read_file(path)
    host = contract.enter(flags.root)
    remember("onetrainer", flags.root)
    config = host_config.read_config(host, flags)
    host_config.refuse(host, config)
    # what is preserved is so at both ends
    strengths = {pair.multiplier for pair in loaded.pairs} | ({-1.0} if flags.leco.preserve else set())
    refuse_strengths(config, strengths)
    write_lines(sys.stdout, (f"LECO: {line}" for line in host_config.adapt(host, config)))
    plan = _plan(flags, loaded.pairs, config)
    reported = Reported(describe(plan, config))
    reported.warn(map(str, loaded.warnings))
    with stop_on_signal() as stop:
        mixed: Any = type("LecoTrainer", (TrainerMixin, host.trainer), {})
        trainer = mixed(config, host.callbacks(), host.commands())
        trainer.leco_host, trainer.leco_plan, trainer.leco_wants_stop = host, plan, lambda: stop.asked
        trainer.leco_reported = reported
        return _train(trainer, config, stop)


def _plan(flags: Flags, pairs: tuple[PromptPair, ...], config: Any) -> Plan:
    flow = config.model_type.is_flow_matching()
    if flow and flags.sampler:
        raise ConfigError(
            f"--noise-scheduler {flags.sampler}: {config.model_type} is a flow, walked by Euler's steps",
            fix="remove it",
        )
    return Plan(
        pairs=pairs,
        leco=flags.leco,
        settings=host_config.step_settings(config, flags.leco),
        sampler="flow" if flow else flags.sampler or "ddim",
        epoch_steps=host_config.set_steps(config, flags),
        seed=draw_seed() if flags.seed is None else flags.seed,
        epochs=config.epochs,
        accumulation=config.gradient_accumulation_steps,
    )


def _train(trainer: Any, config: Any, stop: Stop) -> int:
    """The host's sequence; what a run that was broken off leaves follows the host's rule."""
    try:
        _start(trainer)
        trainer.train()
    except BaseException as error:
        # whatever happens: the host ends its TensorBoard there, which would go on for ever
        keeps = isinstance(error, KeyboardInterrupt) and config.backup_before_save
        trainer.one_step_trained = trainer.one_step_trained and keeps
        if keeps and trainer.one_step_trained:
            trainer.leco_end(interrupted=True)
        else:
            trainer.end()
        raise
    trainer.leco_end(interrupted=stop.asked)
    return INTERRUPTED if stop.asked else DONE


def _start(trainer: Any) -> None:
    try:
        trainer.start()
    except Exception as error:
        # what the host raises itself; it has printed why
        if type(error) is Exception:
            raise ModelError(f"OneTrainer: {error}", fix="see what it says above") from None
        raise
