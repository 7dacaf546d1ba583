"""The states of a run: when they are written, which one is taken up, and whether it is of this run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from leco_plugin.config.schema import JobConfig
from leco_plugin.core.state import StateTree
from leco_plugin.engine.report import Report
from leco_plugin.engine.same_run import MODEL_WEIGHTS, describe_run, refuse_other_run
from leco_plugin.engine.state_file import DamagedState, Stored, read_state, state_step, write_state
from leco_plugin.errors import ConfigError
from leco_plugin.events import Saved, Warned
from leco_plugin.hosts.builtin.output import Kept

NEWEST = "newest"
_NAME = re.compile(r"(?P<run>.+?)(-step(?P<step>\d{8,}))?-state")


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
