"""What is tried: ranges around a job's own settings, or values that a user names; and the job of one trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leco_plugin.config.build import load_job, parse_overrides
from leco_plugin.config.optimizers import named_optimizer
from leco_plugin.config.schema import JobConfig
from leco_plugin.errors import ConfigError
from leco_plugin.families.known import settle

STRENGTH = "guidance_scale"
"""Factor on the edit strength of every pair; all other keys are a job's."""
Value = bool | int | float | str
_RANKS = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; ``log`` where it is their ratio that counts."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


Space = Mapping[str, Range | Sequence[Value]]


def usual_space(job: JobConfig, *, guided: bool) -> Space:
    """Rate, rank, steps, edit strength and, where walks are ``guided``, their guidance; around what ``job`` says."""
    steps, space = job.train.steps, dict[str, Range | Sequence[Value]]()
    # one that finds its rate takes 1
    if not named_optimizer(job.train.optimizer).finds_its_rate:
        space["train.lr"] = Range(1e-4, 5e-3, log=True)
    space["network.linear"] = _RANKS
    space["train.steps"] = Range(max(1, steps // 2), max(2, steps * 3 // 2), whole=True)
    space[STRENGTH] = Range(0.5, 3.0)
    if guided:
        space["leco.denoise_guidance_scale"] = Range(1.0, 6.0)
    return space


def named_space(arguments: Sequence[str]) -> Space:
    """The values of ``["train.lr=1e-4,1e-3"]``; ConfigError where there is nothing to choose from."""
    space: dict[str, Range | Sequence[Value]] = {}
    for argument in arguments:
        key, equals, values = argument.partition("=")
        found = [parse_overrides([f"{key}={value}"])[key.strip()] for value in values.split(",")] if equals else []
        if len(found) < 2 or not all(isinstance(value, bool | int | float | str) for value in found):
            raise ConfigError(f"--try {argument}: there is nothing to choose from", fix="write KEY=VALUE,VALUE,...")
        space[key.strip()] = found  # type: ignore[assignment]
    return space


def job_with(path: Path, overrides: Mapping[str, object], settings: Mapping[str, Value]) -> JobConfig:
    """The job in ``path`` with ``settings``; ConfigError for what it cannot have."""
    set_here = {key: value for key, value in settings.items() if key != STRENGTH}
    own = settle(load_job(path, overrides).job).job
    if "network.linear" in set_here and "network.linear_alpha" not in set_here:
        # the same strength at every rank
        ratio = own.network.linear_alpha / own.network.linear
        set_here["network.linear_alpha"] = ratio * float(set_here["network.linear"])
    job = settle(load_job(path, {**overrides, **set_here}).job).job
    factor = float(settings.get(STRENGTH, 1.0))
    pairs = tuple(pair.model_copy(update={STRENGTH: factor * pair.guidance_scale}) for pair in job.pairs)
    return job.model_copy(update={"pairs": pairs})


def own_settings(job: JobConfig, space: Space) -> dict[str, Value]:
    """What ``job`` says itself of the keys in ``space``."""
    found: dict[str, Value] = {}
    for key in space:
        section, _, name = key.rpartition(".")
        found[key] = 1.0 if key == STRENGTH else getattr(getattr(job, section) if section else job, name)
    return found
