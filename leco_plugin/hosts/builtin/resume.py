"""The states of a run: when they are written, which one is taken up, and whether it is of this run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, TypeVar, cast

from leco_plugin.config.schema import JobConfig
from leco_plugin.core.state import StateTree
from leco_plugin.engine.report import Report
from leco_plugin.engine.same_run import MODEL_WEIGHTS, describe_run, refuse_other_run
from leco_plugin.engine.state_file import DamagedState, Label, Stored, read_label, read_state, write_state
from leco_plugin.errors import ConfigError
from leco_plugin.events import Warned
from leco_plugin.hosts.builtin.output import Kept

NEWEST = "newest"
Tell = Callable[[Warned], None]
_Read = TypeVar("_Read")
_STATE = re.compile(r"(?P<name>.+?)(-step(?P<step>\d{8,}))?-state")


@dataclass
class States:
    """Writes the states of one run and clears away old ones."""

    job: JobConfig
    run: str
    described: Mapping[str, str]

    def __post_init__(self) -> None:
        save = self.job.save
        last_steps = save.save_last_n_steps if save.save_last_n_steps_state is None else save.save_last_n_steps_state
        self.kept = Kept(save.max_step_saves_to_keep, last_steps, _remove)

    def path(self, step: int | None = None) -> Path:
        """Where the state of the end goes, or that of ``step``."""
        return self.job.output_folder / f"{self.job.name}{'' if step is None else f'-step{step:08d}'}-state"

    def write(self, folder: Path, tree: StateTree, step: int) -> None:
        """Write ``folder``, the state after ``step`` steps."""
        write_state(folder, Stored(Label(step, self.job.name, self.run), self.described, tree))


def find_states(job: JobConfig, newest_run: str, report: Report) -> Iterator[Stored]:
    """The states that ``job.resume`` asks for, the best first; damaged ones are named and left out.

    The newest is that of the newest run, ``newest_run`` where that is known, however many steps an older one has done.
    After a folder that is named come the states of the same run that are older. Raises ConfigError where such a folder
    is none that a run wrote.
    """
    if not job.resume:
        return
    asked = None if job.resume == NEWEST else Path(job.resume).expanduser()
    found = _before(asked, report) if asked else _of_run(job.output_folder, job.name, newest_run, inf, report)
    for folder in found:
        stored = _whole(_of_training, folder, report)
        if stored:
            yield stored


def begin_anew(job: JobConfig, report: Report) -> None:
    """Say that there is no state; ConfigError where the job names one."""
    if job.resume == NEWEST:
        where = f"of the newest run of {job.name} in {job.output_folder}"
        report(Warned(f"resume: there is no state {where} yet, so the run starts at its beginning"))
    elif job.resume:
        raise ConfigError(f"resume: {job.resume} holds no state that is whole", fix=f"name another one, or {NEWEST}")


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


def refuse_other_count(stored: Stored, count: int) -> None:
    """Raise ConfigError where the state is of another number of processes: each has walks of its own."""
    before = 1 + len(cast(Mapping[str, Any], stored.tree).get("others", ()))
    if before != count:
        raise ConfigError(
            f"resume: the state at step {stored.step} is of a run in {before} process{'es' if before > 1 else ''}, and "
            f"this is one in {count}",
            fix=f"start as many (accelerate launch --num_processes {before}), or leave resume out to start a new run",
        )


def tree_of(stored: Stored, rank: int) -> StateTree:
    """The state of the loop in the process with this number."""
    tree = cast(Mapping[str, Any], stored.tree)
    return {**tree["loop"], **tree["others"][rank - 1]} if rank else cast(StateTree, tree["loop"])


def _of_run(folder: Path, name: str, run: str, most: float, tell: Tell) -> list[Path]:
    """The states of ``run``, or of the newest one, that have done at most so many steps; most steps first."""
    found: list[tuple[Label, Path]] = []
    pattern = re.compile(rf"{re.escape(name)}(-step\d{{8,}})?-state")
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if pattern.fullmatch(path.name) and path.is_dir():
            label = _whole(read_label, path, tell)
            if label and label.name == name and label.step <= most:
                found.append((label, path))
    run = run or max((label.run for label, _ in found), default="")
    own = [(label.step, path) for label, path in found if label.run == run]
    return [path for _, path in sorted(own, reverse=True)]


def _before(asked: Path, tell: Tell) -> list[Path]:
    """``asked``, and after it those of the same run that are older."""
    match = _STATE.fullmatch(asked.name)
    if not asked.is_dir() or match is None:
        raise ConfigError(
            f"resume: {asked} is no state that a run wrote", fix=f"name a '...-state' folder, or {NEWEST}"
        )
    label = _whole(read_label, asked, tell)
    if label:
        older = _of_run(asked.parent, label.name, label.run, label.step, lambda _: None)
        return [asked, *(path for path in older if path != asked)]
    return _of_run(asked.parent, match["name"], "", float(match["step"] or inf), lambda _: None)


def _of_training(folder: Path) -> Stored:
    """What ``folder`` holds; DamagedState where it does not say, either, of which run it is."""
    stored = read_state(folder)
    if not (MODEL_WEIGHTS in stored.described and str(stored.described.get("training_seed")).isdecimal()):
        raise DamagedState("it does not say of which run it is")
    return stored


def _whole(read: Callable[[Path], _Read], folder: Path, tell: Tell) -> _Read | None:
    try:
        return read(folder)
    except DamagedState as damage:
        tell(Warned(f"the state {folder} was cut off in writing or has changed, and is left out: {damage}"))
        return None


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
