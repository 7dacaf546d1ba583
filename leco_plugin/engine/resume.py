"""The states of a run: when they are written, which one is taken up, and whether it is of this run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import nn

from leco_plugin.config.schema import (
    JobConfig,
    LecoConfig,
    ModelConfig,
    NetworkConfig,
    PromptPair,
    TrainConfig,
)
from leco_plugin.core.state import StateTree
from leco_plugin.engine.output import Kept
from leco_plugin.engine.report import Report
from leco_plugin.engine.state_file import DamagedState, Stored, read_state, state_step, write_state
from leco_plugin.errors import ConfigError
from leco_plugin.events import Saved, Warned

NEWEST = "newest"
MODEL_WEIGHTS = "weights of the model"
_NAME = re.compile(r"(?P<run>.+?)(-step(?P<step>\d{8,}))?-state")
_PAIR = re.compile(r"pair \d+ ")
_MAY_DIFFER = frozenset({"train.steps", "train.gradient_checkpointing", "model.name_or_path"})
_SAMPLED_WEIGHTS, _SAMPLED_VALUES = 64, 16


@dataclass
class States:
    """Writes the states of one run and clears away old ones."""

    job: JobConfig
    described: Mapping[str, str]
    report: Report

    def __post_init__(self) -> None:
        save = self.job.save
        last_steps = save.save_last_n_steps if save.save_last_n_steps_state is None else save.save_last_n_steps_state
        self.kept = Kept(save.max_step_saves_to_keep, last_steps, _remove)

    def write(self, tree: StateTree, step: int, *, final: bool) -> None:
        """Write the state after ``step`` steps."""
        name = f"{self.job.name}-state" if final else f"{self.job.name}-step{step:08d}-state"
        folder = self.job.output_folder / name
        write_state(folder, Stored(step, self.described, tree))
        if not final:
            self.kept.add(step, folder)
        self.report(Saved(folder, step, final=False))


def find_state(job: JobConfig, report: Report) -> Stored | None:
    """The state that ``job.resume`` asks for; damaged ones are named, and the one before is used instead.

    None where it asks for the newest and there is none. Raises ConfigError where a folder that it names holds no
    state, or none that is whole.
    """
    if not job.resume:
        return None
    asked = None if job.resume == NEWEST else Path(job.resume).expanduser()
    candidates = _states_before(asked) if asked else _states_in(job.output_folder, job.name)
    for folder in candidates:
        try:
            return read_state(folder)
        except DamagedState as damage:
            report(Warned(f"the state {folder} was cut off in writing or has changed, and is left out: {damage}"))
    if asked:
        raise ConfigError(f"resume: {asked} holds no state that is whole", fix=f"name another one, or {NEWEST}")
    report(Warned(f"resume: there is no state in {job.output_folder} yet, so the run starts at its beginning"))
    return None


def describe_run(job: JobConfig, seed: int) -> dict[str, str]:
    """What a run that goes on with a state must share with the one that wrote it, by option."""
    sections = {name: getattr(job, name).model_dump(mode="json") for name in ("model", "network", "train", "leco")}
    options = {f"{above}.{name}": value for above, values in sections.items() for name, value in values.items()}
    options["training_seed"] = seed
    for number, pair in enumerate(job.pairs, start=1):
        options |= {f"pair {number} {name}": value for name, value in pair.model_dump(mode="json").items()}
    return {name: json.dumps(value) for name, value in options.items() if name not in _MAY_DIFFER}


def model_weights_hash(module: nn.Module) -> str:
    """Tells models apart by a sample of their weights, wherever their files are; taken before a network is attached."""
    parameters = list(module.parameters())
    digest = hashlib.sha256()
    for parameter in parameters[:: max(1, len(parameters) // _SAMPLED_WEIGHTS)]:
        values = parameter.detach().flatten()
        part = values[:: max(1, len(values) // _SAMPLED_VALUES)].to("cpu", torch.float32)
        digest.update(repr((tuple(parameter.shape), part.tolist())).encode())
    return digest.hexdigest()[:16]


def resumed_seed(stored: Stored, job: JobConfig) -> int:
    """The seed of the run that ``job`` goes on with; raises ConfigError where that is another run.

    Asked before anything is loaded, so it leaves the model's weights out.
    """
    seed = int(stored.described["training_seed"]) if job.training_seed is None else job.training_seed
    refuse_other_run(stored, {**describe_run(job, seed), MODEL_WEIGHTS: stored.described[MODEL_WEIGHTS]})
    if stored.step > job.train.steps:
        raise ConfigError(
            f"resume: the state is at step {stored.step}, and the run has {job.train.steps} steps",
            fix="set more train.steps, or resume from an older state",
        )
    return seed


def refuse_other_run(stored: Stored, described: Mapping[str, str]) -> None:
    """Raise ConfigError with every difference between the run of a state and the one that would go on with it."""
    # an option that is newer than the state was as it is when nobody sets it
    before = {**_defaults(described), **stored.described}
    names = [*described, *(name for name in before if name not in described)]
    differences = [
        f"{name}: {before.get(name, 'absent')} in the state, {described.get(name, 'absent')} now"
        for name in names
        if before.get(name) != described.get(name)
    ]
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise ConfigError(
            f"resume: the state at step {stored.step} is of another run: {shown}",
            fix="set what differs back, or leave resume out to start a new run",
        )


def _defaults(names: Iterable[str]) -> dict[str, str]:
    """What the options among ``names`` are when nobody sets them, as ``describe_run`` says it."""
    models: dict[str, type[BaseModel]] = {
        "model": ModelConfig,
        "network": NetworkConfig,
        "train": TrainConfig,
        "leco": LecoConfig,
    }
    known = {f"{above}.{name}": value for above, model in models.items() for name, value in _unset(model).items()}
    of_pairs = _unset(PromptPair)
    found = {name: of_pairs.get(name.rpartition(" ")[2]) if _PAIR.match(name) else known.get(name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _unset(model: type[BaseModel]) -> dict[str, str]:
    values = model.model_construct().model_dump(mode="json", warnings=False)
    return {name: json.dumps(value) for name, value in values.items()}


def _states_in(folder: Path, run: str) -> list[Path]:
    """The states of ``run``, newest first; the step of one without a manifest is told by its name."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and match["run"] == run and path.is_dir():
            by_name = float(match["step"]) if match["step"] else float("inf")
            step = state_step(path)
            found.append((by_name if step is None else step, path))
    return [path for _, path in sorted(found, reverse=True)]


def _states_before(folder: Path) -> list[Path]:
    """``folder``, and after it those of the same run that are older."""
    match = _NAME.fullmatch(folder.name)
    if not folder.is_dir() or match is None:
        raise ConfigError(
            f"resume: {folder} is no state that a run wrote", fix=f"name a '...-state' folder, or {NEWEST}"
        )
    states = _states_in(folder.parent, match["run"])
    return states[states.index(folder) :]


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
