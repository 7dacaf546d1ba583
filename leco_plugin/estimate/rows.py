"""How many rows a step asks the model for; counted as engine/step.py and core/walk.py do."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.engine.concepts import MEASURE_EVERY, watched_prompts
from leco_plugin.engine.pool_size import walks_in_flight, walks_per_step
from leco_plugin.estimate.memory import Calls


@dataclass(frozen=True)
class Rows:
    """Rows for one sample of one pair in one step, on the average."""

    without_gradient: float
    student: int


def rows_of(pair: PromptPair, job: JobConfig) -> Rows:
    """Rows without and with gradient that one sample of ``pair`` costs."""
    preserve = job.leco.preserve
    preserved = fmean(prompt not in _teacher(pair) for prompt in preserve) if preserve else 0
    known = len(_teacher(pair)) + preserved + _measuring(pair, job) / MEASURE_EVERY
    return Rows(known + _walking(job), 2 if preserve else 1)


def _teacher(pair: PromptPair) -> set[str]:
    return {pair.neutral, pair.positive, pair.unconditional}


def _measuring(pair: PromptPair, job: JobConfig) -> float:
    """Rows that are there only to be measured, where they are: of the target, and of one untouched prompt."""
    teacher, watched = _teacher(pair), () if job.leco.preserve else watched_prompts(job.pairs)
    walked = {pair.unconditional} if _moving(job) else set()
    drift = [(prompt not in teacher) + (prompt not in walked) for prompt in watched]
    return (pair.target not in teacher) + (fmean(drift) if drift else 0)


def _moving(job: JobConfig) -> bool:
    """Whether a walk's next move needs a row of its own in the step."""
    return job.leco.walk == "pool" and job.leco.denoise_guidance_scale != 1


def _walking(job: JobConfig) -> float:
    leco, train = job.leco, job.train
    steps, guided = leco.max_denoising_steps, 1 if leco.denoise_guidance_scale == 1 else 2
    if leco.walk == "fresh":
        return guided * steps / 2
    first = walks_in_flight(leco, job.pairs) * guided * steps / 2
    visits = train.steps * train.gradient_accumulation * walks_per_step(leco, job.pairs)
    stride = min(leco.pool_stride, steps - 1)
    replaced = stride / (steps - 1)
    going = guided - 1 + (1 - replaced) * (stride - 1) * guided
    return going + replaced * guided * (stride + 1) / 2 + first / visits


def widest_calls(job: JobConfig) -> Calls:
    """The most rows that one call without gradient and one student's call have."""
    preserved = int(bool(job.leco.preserve))
    # an untouched prompt is measured with two rows where none is preserved
    more = _moving(job) + (preserved or 2)
    known = max(pair.batch_size * (len({*_teacher(pair), pair.target}) + more) for pair in job.pairs)
    samples = max(pair.batch_size for pair in job.pairs)
    return Calls(job.leco.pairs_per_step * known, job.leco.pairs_per_step * samples * (1 + preserved))


def calls_of(job: JobConfig) -> float:
    """Calls of the model in one optimizer step, the backward pass counted as two."""
    walking = job.leco.max_denoising_steps / 2 if job.leco.walk == "fresh" else job.leco.pool_stride - 1
    return job.train.gradient_accumulation * (walking + 4)
