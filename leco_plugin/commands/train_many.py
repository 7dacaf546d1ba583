"""`leco train A.yaml B.yaml ...`: several jobs, one after the other or on a cluster, and what became of each."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leco_plugin.commands.codes import INTERRUPTED, OK, REFUSED
from leco_plugin.config.build import load_job
from leco_plugin.config.run import describe_job
from leco_plugin.config.schema import JobConfig
from leco_plugin.errors import ConfigError, LecoError, reason
from leco_plugin.events import RunEnded
from leco_plugin.families.known import settle
from leco_plugin.launched import place
from leco_plugin.observers.console.figures import amount
from leco_plugin.observers.history import history_path, read_history
from leco_plugin.streams import write_lines

if TYPE_CHECKING:
    from leco_plugin.plugins import Plugins


@dataclass(frozen=True)
class Ended:
    """What became of a job."""

    line: str
    code: int = OK
    problems: Sequence[str] = ()


def train_many(
    paths: Sequence[Path], overrides: Mapping[str, object], host: str, *, again: bool, cluster: str | None
) -> int:
    """Train each job; a failure stops no other, and is named at the end. Gives the exit code.

    Jobs that are finished are left out, unless ``again``; those that were begun go on. ``cluster`` is the address of a
    Ray cluster, "local" for one on this machine, None for this process.
    """
    if place().count > 1:
        raise ConfigError("several jobs are not trained by several processes at once", fix="name one job, or use --ray")
    jobs, ended = _read(paths, overrides, again=again)
    try:
        if cluster is None:
            manager = _manager()
            for number, (path, job) in enumerate(jobs.items(), start=1):
                write_lines(sys.stdout, [f"{number}/{len(jobs)}: {path}"])
                ended[path] = _train(job, host, manager)
                if ended[path].code == INTERRUPTED:
                    break
        else:
            from leco_plugin.hosts.ray_cluster import train_on_cluster

            if host != "builtin":
                raise ConfigError(f"--ray trains in the built-in host, not in {host}", fix="leave --host out")
            for path, error in train_on_cluster(jobs, cluster):
                ended[path] = _failed(error) if error else _finished(jobs[path])
    except KeyboardInterrupt:
        write_lines(sys.stderr, ["stopped at once; only what had been saved before is there"])
    return _summary(paths, ended)


def _read(
    paths: Sequence[Path], overrides: Mapping[str, object], *, again: bool
) -> tuple[dict[Path, JobConfig], dict[Path, Ended]]:
    """The jobs to train, and what is known of the others."""
    jobs: dict[Path, JobConfig] = {}
    ended: dict[Path, Ended] = {}
    written: dict[Path, Path] = {}
    for path in dict.fromkeys(paths):
        try:
            loaded = load_job(path, overrides)
        except ConfigError as error:
            ended[path] = _failed(error)
            continue
        write_lines(sys.stderr, (f"warning: {warning}" for warning in loaded.warnings))
        job = settle(loaded.job, fetch=True).job
        lora = (job.output_folder / job.name).resolve()
        if lora in written:
            raise ConfigError(f"{written[lora]} and {path} would both write {lora}", fix="set another name in one")
        written[lora] = path
        finished = None if again else finished_line(job)
        if finished:
            ended[path] = Ended(f"skipped, it is finished: {finished}")
        else:
            jobs[path] = prepared(job, again=again)
    return jobs, ended


def finished_line(job: JobConfig) -> str | None:
    """How the run of this very job ended, if it did and its LoRA is there; None else."""
    history = history_path(job.output_folder, job.name)
    if not (job.output_folder / f"{job.name}.{job.save.format}").is_file() or not history.is_file():
        return None
    try:
        found = read_history(history)
    except ConfigError:
        return None
    asked = describe_job(job)
    same = (found.run.pairs, found.run.preserve) == (asked.pairs, asked.preserve) and all(
        found.run.options.get(name) == value for name, value in asked.options.items() if name != "save.overwrite"
    )
    ended = [event for event in found.last_part if isinstance(event, RunEnded) and not event.interrupted]
    return _how(ended[-1]) if same and ended else None


def prepared(job: JobConfig, *, again: bool) -> JobConfig:
    """``job`` as it is trained in a list: from its beginning, or on from where it was stopped."""
    if again:
        save = job.save.model_copy(update={"overwrite": True})
        return job.model_copy(update={"save": save, "resume": None})
    begun = (job.output_folder / f".{job.name}.lock").exists()
    return job.model_copy(update={"resume": "newest"}) if begun and job.resume is None else job


def _train(job: JobConfig, host: str, manager: Plugins) -> Ended:
    from leco_plugin.plugins import run_job

    try:
        result = run_job(job, host=host, manager=manager)
    except LecoError as error:
        return _failed(error)
    # a fault of ours, or memory that is short: the next job may well run
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return Ended("failed", REFUSED, [f"{type(error).__name__}: {reason(error)}"])
    return Ended("stopped", INTERRUPTED) if result.interrupted else _finished(job)


def _manager() -> Plugins:
    """The plugins, with one that keeps the model for the next job."""
    from leco_plugin.hosts.builtin.shared_model import SharedModel
    from leco_plugin.plugins import plugin_manager

    manager = plugin_manager()
    manager.register(SharedModel(manager), "shared-model")
    return manager


def _finished(job: JobConfig) -> Ended:
    # a host of somebody else need not write a history
    return Ended(finished_line(job) or f"finished; the LoRA is in {job.output_folder}")


def _failed(error: LecoError) -> Ended:
    return Ended("failed", REFUSED, [str(problem) for problem in error.problems])


def _how(ended: RunEnded) -> str:
    effect = "" if ended.effect is None else f", effect {amount(ended.effect)}"
    return f"finished after {ended.steps} steps{effect}; the LoRA is {ended.path}"


def _summary(paths: Sequence[Path], ended: Mapping[Path, Ended]) -> int:
    """Say what became of all, failures last; gives the exit code."""
    left = [path for path in paths if path not in ended]
    failed = {path: one for path, one in ended.items() if one.code == REFUSED}
    write_lines(sys.stdout, (f"{path}: {ended[path].line}" for path in dict.fromkeys(paths) if path in ended))
    write_lines(sys.stdout, (f"{path}: not begun" for path in left))
    write_lines(sys.stderr, (f"{path}: {problem}" for path, one in failed.items() for problem in one.problems))
    stopped = left or any(one.code == INTERRUPTED for one in ended.values())
    return INTERRUPTED if stopped else REFUSED if failed else OK
