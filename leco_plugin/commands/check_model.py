"""`leco check FILE --model`: what the check without a model says, and what the model makes of the prompts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO, cast

from leco_plugin.commands.check_file import check
from leco_plugin.commands.codes import OK
from leco_plugin.commands.tellers import Teller, Ways
from leco_plugin.config.build import Loaded, load
from leco_plugin.config.names import AUTO
from leco_plugin.config.schema import JobConfig, LecoConfig
from leco_plugin.config.words import quote
from leco_plugin.engine.figures import PairFigures
from leco_plugin.engine.measure import Course
from leco_plugin.engine.neighbours import Neighbour, find_neighbours
from leco_plugin.engine.prompt_check import PromptCheck, check_prompts, pull, states_of
from leco_plugin.errors import ConfigError
from leco_plugin.lora.subject import job_for, load_model, with_model
from leco_plugin.observers.console.pages import Page
from leco_plugin.streams import problem_fields, write_json, write_lines

_SAMPLES, _STATES = 2, 4


def check_with_model(path: Path, model: str | None, ways: Ways, teller: Teller, out: TextIO, err: TextIO) -> int:
    """Check ``path``, then its prompts with ``model``, or the job's; 2 where it cannot be run, else 0.

    Raises ConfigError where no model is named, ModelError where it cannot be loaded.
    """
    said = io.StringIO() if ways.json else out
    code = check(path, ways, teller, said, err)
    if code == OK:
        job = _job(path, model)
        found, near = _measure(job)
    if ways.json:
        told = json.loads(cast(io.StringIO, said).getvalue())
        write_json(out, {**told, "model_check": _fields(job, found, near)} if code == OK else told)
    elif code == OK:
        teller.prose((*_lines(job, found), *_near(job, near)))
        write_lines(err, (f"warning: {problem}" for problem in found.problems))
    return code


def _job(path: Path, model: str | None) -> JobConfig:
    loaded = load(path)
    if isinstance(loaded, Loaded):
        return with_model(loaded.job, model)
    if model is None:
        raise ConfigError(f"{path} is a prompt file, which names no model", fix="write --model MODEL")
    return job_for(loaded.pairs, model, leco=LecoConfig(preserve=loaded.preserve))


def _measure(job: JobConfig) -> tuple[PromptCheck, list[Neighbour]]:
    leco = job.leco
    course = Course(job.train.noise_scheduler, leco.max_denoising_steps, leco.denoise_guidance_scale, _SAMPLES, _STATES)
    named, page = [prompt for prompt in leco.preserve if prompt != AUTO], Page()
    with page.working(f"loading {job.model.name_or_path}"):
        denoiser = load_model(job)
    with page.progress("asking the model", states_of(job.pairs, course)) as tick:
        found = check_prompts(denoiser, job.pairs, named, course, tick)
    with page.working("looking for words that lie near"):
        return found, find_neighbours(denoiser, job.pairs, course)


def _lines(job: JobConfig, found: PromptCheck) -> Iterator[str]:
    yield f"to {job.model.name_or_path}, on {_SAMPLES} noise samples:"
    # the pairs of a slider share their prompts
    yield from dict.fromkeys(f"  {_line(one)}" for one in found.pairs)
    if not found.problems:
        yield "every prompt is read whole, every word is known, every contrast is seen"


def _near(job: JobConfig, near: Sequence[Neighbour]) -> Iterator[str]:
    kept = AUTO in job.leco.preserve
    for one in near:
        prompts = ", ".join(map(quote, one.prompts))
        what = "preserve: auto keeps" if kept else 'worth preserving, or write "auto":'
        yield f"  {quote(one.word)} is {one.likeness:.0%} like {quote(one.concept)}; {what} {prompts}"


def _line(one: PairFigures) -> str:
    pair = one.pair
    return (
        f"{quote(pair.positive)} against {quote(pair.unconditional)} at {pair.multiplier:+g}: "
        f"contrast {one.contrast:.3%} of the prediction, neutral {quote(pair.neutral)} pulls {pull(one):.0%}"
    )


def _fields(job: JobConfig, found: PromptCheck, near: Sequence[Neighbour]) -> dict[str, object]:
    named = {"target", "positive", "unconditional", "neutral"}
    return {
        "model": job.model.name_or_path,
        "problems": [problem_fields(problem) for problem in found.problems],
        "pairs": [
            {**one.pair.model_dump(include=named), "contrast": one.contrast, "pull": pull(one)} for one in found.pairs
        ],
        "neighbours": [asdict(one) for one in near],
    }
