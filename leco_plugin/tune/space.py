"""What is tried: ranges around a job's own settings and its family's, or values that a user names; one trial's job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leco_plugin.config.build import load_job, parse_overrides
from leco_plugin.config.defaults import Defaulted
from leco_plugin.config.optimizers import named_optimizer
from leco_plugin.config.schema import JobConfig
from leco_plugin.engine.concepts import watched_prompts
from leco_plugin.errors import ConfigError
from leco_plugin.families.known import settle

STRENGTH = "guidance_scale"
"""Factor on the edit strength of every pair; all other keys but one are a job's."""
KEEP = "preserve"
"""Whether a job that preserves nothing preserves the prompts that drift is measured on."""
RATES = ("train.lr", "train.unet_lr")
RANK = "network.linear"
Value = bool | int | float | str
Settings = Mapping[str, Value]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; ``log`` where it is their ratio that counts."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def within(self, value: float) -> float:
        """The number here that is nearest to ``value``."""
        return min(max(value, self.low), self.high)


Space = Mapping[str, Range | Sequence[Value]]


def usual_space(found: Defaulted) -> Space:
    """Rate, rank, steps, edit strength, what is kept, and the guidance of guided walks.

    Around what the job says; a rate of its own that is far from its family's is an end of the range.
    """
    job, space = found.job, dict[str, Range | Sequence[Value]]()
    own, rank, steps = job.train.learning_rate, job.network.linear, job.train.steps
    # one that finds its rate takes 1
    if not named_optimizer(job.train.optimizer).finds_its_rate:
        usual = float(found.table.get("train.lr", own))
        space[RATES[job.train.unet_lr is not None]] = Range(min(own or usual, usual / 3), max(own, usual * 3), log=True)
    if job.network.network_weights is None:
        space[RANK] = tuple(dict.fromkeys((max(1, rank // 2), rank, 2 * rank, 4 * rank)))
    space["train.steps"] = Range(max(1, steps // 2), max(2, steps * 3 // 2), whole=True)
    space[STRENGTH] = Range(1 / 3, 3.0, log=True)
    if job.leco.preserve:
        weight = job.leco.preserve_weight
        space["leco.preserve_weight"] = Range(weight / 3, weight * 3, log=True)
    else:
        space[KEEP] = (False, True)
    guidance = job.leco.denoise_guidance_scale
    if guidance != 1.0:
        space["leco.denoise_guidance_scale"] = Range(min(1.0, guidance), 2 * max(guidance, 3.0))
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


def job_with(path: Path, overrides: Mapping[str, object], settings: Settings) -> JobConfig:
    """The job in ``path`` with ``settings``; ConfigError for what it cannot have."""
    set_here: dict[str, object] = {key: value for key, value in settings.items() if key not in (STRENGTH, KEEP)}
    own = settle(load_job(path, overrides).job).job
    if RANK in set_here and "network.linear_alpha" not in set_here:
        # the same strength at every rank
        set_here["network.linear_alpha"] = own.network.linear_alpha / own.network.linear * float(settings[RANK])
    if settings.get(KEEP):
        set_here["leco.preserve"] = watched_prompts(own.pairs)
    job = settle(load_job(path, {**overrides, **set_here}).job).job
    factor = float(settings.get(STRENGTH, 1.0))
    pairs = tuple(pair.model_copy(update={STRENGTH: factor * pair.guidance_scale}) for pair in job.pairs)
    return job.model_copy(update={"pairs": pairs})


def own_settings(job: JobConfig, space: Space) -> dict[str, Value]:
    """What ``job`` says itself of the keys in ``space``."""
    found: dict[str, Value] = {STRENGTH: 1.0, KEEP: False}
    for key in space:
        section, _, name = key.rpartition(".")
        if key not in found:
            found[key] = getattr(getattr(job, section) if section else job, name)
    return {key: found[key] for key in space}
