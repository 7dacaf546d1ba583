"""A LECO run inside the host: its steps, and what a backup of it holds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator, Tensor

from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.core.state import Stateful, StateTree
from leco_plugin.engine.assemble import Training, assemble
from leco_plugin.engine.progress import Progress
from leco_plugin.engine.same_run import refuse_other_run
from leco_plugin.engine.state_file import DamagedState, Label, Stored, read_state, write_state
from leco_plugin.engine.step import StepSettings
from leco_plugin.errors import ConfigError, TrainingError
from leco_plugin.hosts.onetrainer.denoiser import HostDenoiser
from leco_plugin.hosts.onetrainer.gradients import Gradients
from leco_plugin.hosts.onetrainer.network import HostNetwork

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
    seed: int

    @property
    def resolution(self) -> tuple[int, int]:
        """The largest of the pairs', (height, width) in pixels."""
        return max((pair.resolution for pair in self.pairs), key=math.prod)

    def described(self) -> dict[str, str]:
        """What a run that goes on with a backup must share with the one that made it."""
        options: dict[str, object] = {f"leco.{k}": v for k, v in self.leco.model_dump(mode="json").items()}
        options |= {**vars(self.settings), "noise_scheduler": self.sampler, "epoch_steps": self.epoch_steps}
        for number, pair in enumerate(self.pairs, start=1):
            options |= {f"pair {number} {k}": v for k, v in pair.model_dump(mode="json").items()}
        return {name: json.dumps(value) for name, value in options.items()}


@dataclass
class Run:
    """The steps of a plan over the host's model."""

    plan: Plan
    training: Training
    denoiser: HostDenoiser
    network: HostNetwork
    gradients: Gradients
    progress: Progress
    stop: Callable[[], None]
    """Asks the host to stop after this step."""
    wants_stop: Callable[[], bool]
    """Whether the user has asked to stop."""

    def loss(self) -> Tensor:
        """One step; TrainingError where its loss is not finite."""
        loss = self.gradients.handed(self.network.parameters(), self._step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value}; backups and saved files are as they were",
                fix="try a lower learning rate, train_dtype BFLOAT_16, or a smaller guidance_scale",
            )
        if self.wants_stop():
            self.stop()
        return loss

    def figures(self) -> dict[str, float]:
        """How far the run has come, by name; asked for after every optimizer step."""
        stop_at = self.plan.leco.stop_at
        if stop_at is not None and self.progress.reached(stop_at):
            self.stop()
        found = {"goal_reached": self.progress.goal_reached, "drift": self.progress.drift}
        return {name: value for name, value in found.items() if value is not None}

    def _step(self, backward: Callable[[Tensor], None]) -> Tensor:
        result = self.training.step.run(self.training.walks, backward)
        self.progress.add(result.measured)
        return result.loss

    def write(self, folder: Path, step: int) -> None:
        """Write beside a backup of the host what the host does not know of."""
        tree: StateTree = {
            "walks": cast(Stateful, self.training.walks).state(),
            "random": [torch.get_rng_state(), *(_cuda(self.denoiser.device) or ())],
            "scale": self.gradients.scale,
            "progress": self.progress.state(),
        }
        write_state(folder / STATE, Stored(Label(step), self.plan.described(), tree))

    def restore(self, backup: Path) -> None:
        """Go on from a backup; ConfigError where it is of another run, or LECO's part of it is missing."""
        try:
            stored = read_state(backup / STATE)
        except DamagedState as damage:
            raise ConfigError(
                f"the backup {backup} cannot be continued with LECO: {damage}",
                fix="switch continue_last_backup off, or take that backup away",
            ) from None
        refuse_other_run(stored, self.plan.described())
        tree = cast(Mapping[str, Any], stored.tree)
        cast(Stateful, self.training.walks).restore(tree["walks"])
        self.gradients.scale = tree["scale"]
        self.progress.restore(tree["progress"])
        cpu, *devices = cast(Sequence[Tensor], tree["random"])
        torch.set_rng_state(cpu)
        if devices and self.denoiser.device.type == "cuda":
            torch.cuda.set_rng_state(devices[0], self.denoiser.device)


def begin(
    plan: Plan,
    setup: Any,
    model: Any,
    config: Any,
    *,
    scaled: bool,
    stop: Callable[[], None],
    wants_stop: Callable[[], bool],
) -> Run:
    """A run over what the host has set up; encodes the prompts. ``scaled``: whether the host scales fp16 losses."""
    denoiser = HostDenoiser(setup, model, config, plan.resolution)
    network = HostNetwork(setup, model, config)
    for pair in plan.pairs:
        # refuses a size that does not fit before the first step
        denoiser.latent_shape(*pair.resolution)
    training = assemble(
        plan.pairs,
        plan.leco,
        plan.settings,
        denoiser=denoiser,
        network=network,
        sampler=plan.sampler,
        generator=Generator().manual_seed(plan.seed),
    )
    gradients, progress = Gradients(scaled=scaled), Progress(plan.pairs)
    return Run(plan, training, denoiser, network, gradients, progress, stop, wants_stop)


def _cuda(device: torch.device) -> tuple[Tensor] | None:
    return (torch.cuda.get_rng_state(device),) if device.type == "cuda" else None
