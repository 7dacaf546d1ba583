"""A LECO run inside the host: its steps, and what a backup of it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Generator, Tensor

from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.engine.assemble import Training, assemble
from leco_plugin.engine.progress import Progress
from leco_plugin.engine.same_run import describe_parts
from leco_plugin.engine.state_file import DamagedState
from leco_plugin.engine.step import StepSettings
from leco_plugin.engine.stop import Stop
from leco_plugin.errors import ConfigError, TrainingError
from leco_plugin.hosts.kept import Kept
from leco_plugin.hosts.onetrainer.denoiser import HostDenoiser
from leco_plugin.hosts.onetrainer.gradients import Gradients
from leco_plugin.hosts.onetrainer.network import HostNetwork
from leco_plugin.hosts.reported import Reported

STATE = "leco"
"""Folder of our state in a backup of the host."""


@dataclass(frozen=True)
class Plan:
    """What is trained, wherever the host stands."""

    pairs: tuple[PromptPair, ...]
    leco: LecoConfig
    settings: StepSettings
    sampler: str
    epoch_steps: int
    """Batches that the host counts as one epoch."""
    seed: int
    epochs: int = 1
    accumulation: int = 1
    """Batches of an optimizer step."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.epoch_steps // self.accumulation

    @property
    def resolution(self) -> tuple[int, int]:
        """The largest of the pairs', (height, width) in pixels."""
        return max((pair.resolution for pair in self.pairs), key=math.prod)

    def described(self) -> dict[str, str]:
        """What a run that goes on with a backup must share with the one that made it."""
        own = {**vars(self.settings), "noise_scheduler": self.sampler, "epoch_steps": self.epoch_steps}
        return describe_parts(self.pairs, self.leco, own)


@dataclass
class Run:
    """The steps of a plan over the host's model."""

    plan: Plan
    """With what `preserve: auto` stands for in its place."""
    described: Mapping[str, str]
    """What a run that goes on with a backup must share with this one."""
    training: Training
    denoiser: HostDenoiser
    network: HostNetwork
    gradients: Gradients
    progress: Progress
    reported: Reported
    commands: Any
    """The host's, by which it is asked to stop after a step."""
    signal: Stop
    """Whether a signal has asked to stop."""
    enough: bool = False
    """Whether the goal that ends the run is reached."""

    def loss(self) -> Tensor:
        """One step; TrainingError where its loss is not finite."""
        loss = self.gradients.handed(self.network.parameters(), self._step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value}; backups and saved files are as they were",
                fix="try a lower learning rate, train_dtype BFLOAT_16, or a smaller guidance_scale",
            )
        if self.signal.asked:
            self.commands.stop()
        return loss

    def optimizer_step(self, batches: int, learning_rate: float) -> dict[str, float]:
        """How far the run has come after so many batches, by name, where that is due."""
        event = self.reported.optimizer_step(batches // self.plan.accumulation, learning_rate)
        if event is None:
            return {}
        stop_at = self.plan.leco.stop_at
        if stop_at is not None and self.progress.reached(stop_at):
            self.enough = True
            self.commands.stop()
        return event.measured

    def _step(self, backward: Callable[[Tensor], None]) -> Tensor:
        result = self.training.step.run(self.training.walks, backward)
        self.reported.step(result)
        return result.loss

    def kept(self, backup: Path) -> Kept:
        """What the host does not know of, in a backup of it."""
        meter, walks = self.reported.meter, self.training.walks
        return Kept(backup / STATE, self.described, walks, meter, self.denoiser.device)

    def restore(self, backup: Path) -> None:
        """Go on from a backup; ConfigError where it is of another run, or LECO's part of it is missing."""
        kept, fix = self.kept(backup), "switch continue_last_backup off, or take that backup away"
        try:
            state = kept.restore(kept.read())
        except DamagedState as damage:
            raise ConfigError(f"the backup {backup} cannot be continued with LECO: {damage}", fix=fix) from None
        except ConfigError as error:
            message = error.problems[0].message.replace("resume: the state", f"continue_last_backup: {backup}")
            raise ConfigError(message, fix=f"set what differs back, or {fix}") from None
        self.gradients.scale, self.enough = state["scale"], bool(state.get("enough"))
        if self.enough:
            self.reported.warn([f"the goal stop_at {self.plan.leco.stop_at:g} is reached already: no more is trained"])
            self.commands.stop()


def begin(plan: Plan, denoiser: HostDenoiser, reported: Reported, commands: Any, signal: Stop, *, scaled: bool) -> Run:
    """A run over what the host has set up; encodes the prompts. ``scaled``: whether the host scales fp16 losses."""
    network = HostNetwork(denoiser.setup, denoiser.model, denoiser.config)
    for pair in plan.pairs:
        # refuses a size that does not fit before the first step
        denoiser.latent_shape(*pair.resolution)
    described = plan.described()
    plan = replace(plan, leco=denoiser.with_neighbours(plan.leco, plan.pairs, plan.sampler, network))
    training = assemble(
        plan.pairs,
        plan.leco,
        plan.settings,
        denoiser=denoiser,
        network=network,
        sampler=plan.sampler,
        generator=Generator().manual_seed(plan.seed),
    )
    exact, sizes = str(denoiser.config.train_dtype) == "FLOAT_32", [pair.resolution for pair in plan.pairs]
    with network.multiplier(0.0):
        remarks = denoiser.check(training.model.table, plan.sampler, plan.leco.max_denoising_steps, sizes, exact=exact)
    progress = Progress(plan.pairs)
    reported.prepare(progress, plan.steps, denoiser.device)
    reported.warn(remarks)
    gradients = Gradients(scaled=scaled)
    return Run(plan, described, training, denoiser, network, gradients, progress, reported, commands, signal)
