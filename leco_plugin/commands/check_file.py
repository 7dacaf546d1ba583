"""`leco check`: what a job or prompt file means and what it will need, without loading a model.

Imports neither torch nor any model library before all but the estimate is told, so that the answer comes at once.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from leco_plugin.config.build import Loaded, LoadedPrompts, load
from leco_plugin.config.flow_rules import fitted, refusals, remarks, without_effect
from leco_plugin.config.idle import idle_settings, refuse_nothing
from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.config.words import equation, settings
from leco_plugin.errors import ConfigError, Problem, harmless
from leco_plugin.families.flow.facts import find_flow
from leco_plugin.streams import problem_fields, write_json, write_lines

OK = 0
REFUSED = 2


def check(path: str | Path, json_output: bool, out: TextIO, err: TextIO, *, estimate: bool = True) -> int:
    """Report what ``path`` says; return 0 where it can be run, 2 where it has errors.

    Text goes to ``out``, errors and warnings to ``err``; with ``json_output`` everything is one JSON object on ``out``.
    Without ``estimate``, memory and time are left out.
    """
    try:
        loaded = load(path)
        if isinstance(loaded, Loaded):
            refuse_nothing(loaded.job.pairs)
    except ConfigError as error:
        if json_output:
            write_json(out, {"errors": [problem_fields(problem) for problem in error.problems]})
        else:
            write_lines(err, map(str, error.problems))
        return REFUSED
    refused: list[Problem] = []
    if isinstance(loaded, Loaded):
        loaded, refused = _for_its_model(loaded)
    if json_output:
        write_json(out, {"errors": [problem_fields(one) for one in refused]} if refused else _fields(loaded, estimate))
    elif refused:
        write_lines(err, map(str, refused))
    else:
        write_lines(out, describe(loaded))
        write_lines(err, (f"warning: {warning}" for warning in loaded.warnings))
        if estimate and isinstance(loaded, Loaded):
            _write_estimate(out, loaded.job)
    return REFUSED if refused else OK


def _for_its_model(loaded: Loaded) -> tuple[Loaded, list[Problem]]:
    """The job with what its model's files say where it leaves that open, and what of it means nothing to that model."""
    facts = find_flow(loaded.job.model)
    if facts is None:
        return replace(loaded, warnings=(*loaded.warnings, *idle_settings(loaded.job))), []
    job, title = fitted(loaded.job, facts.distilled), facts.family.title
    said = (*idle_settings(job), *remarks(job, facts.distilled), *without_effect(job.pairs, title))
    return replace(loaded, job=job, warnings=(*loaded.warnings, *said)), list(
        refusals(loaded.job, facts.family, takes_guidance=facts.takes_guidance)
    )


def _write_estimate(out: TextIO, job: JobConfig) -> None:
    out.flush()
    with _quiet_libraries():
        from leco_plugin.estimate.lines import estimate_lines

        for line in estimate_lines(job):
            write_lines(out, [line])
            out.flush()


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Block in which model libraries do not tell what they miss: nothing is loaded or trained here.

    Nor is garbage collected, which takes a sixth of the time: a model's parts are many, and none is left in a circle.
    """
    before, collects = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.WARNING)
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if collects:
            gc.enable()


def describe(loaded: Loaded | LoadedPrompts) -> Iterator[str]:
    """Yield lines with every resolved value and every pair."""
    if isinstance(loaded, Loaded):
        yield f"{loaded.path}: a job that can be run"
        yield from _job_lines(loaded.job)
        yield from _model_lines(loaded.job)
        pairs: Sequence[PromptPair] = loaded.job.pairs
    else:
        yield f"{loaded.path}: prompts that can be trained"
        pairs = loaded.pairs
    yield f"{len(pairs)} training pair{'s' if len(pairs) != 1 else ''}"
    for number, pair in enumerate(pairs, start=1):
        yield f"{number:3}. {equation(pair)}"
        yield f"     {settings(pair)}"


def _model_lines(job: JobConfig) -> Iterator[str]:
    """What a flow model's files say of its walks."""
    facts = find_flow(job.model)
    if facts is None:
        return
    leco, distilled = job.leco, facts.distilled
    kind = f"distilled: {distilled.why}" if distilled else "not distilled, by its config files"
    yield f"model: {facts.family.title}, {kind}"
    yield f"  so it walks {leco.max_denoising_steps} steps at guidance {leco.denoise_guidance_scale:g}"


def _job_lines(job: JobConfig) -> Iterator[str]:
    values = job.model_dump(mode="json", exclude={"pairs"})
    width = max(len(name) for name, _ in _leaves(values))
    for name, value in _leaves(values):
        yield f"  {name:{width}}  {_plain(value)}"


def _leaves(values: dict[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _plain(value: object) -> str:
    if value is None or value == {}:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else harmless(str(value))


def _fields(loaded: Loaded | LoadedPrompts, estimate: bool) -> dict[str, object]:
    pairs = loaded.job.pairs if isinstance(loaded, Loaded) else loaded.pairs
    fields: dict[str, object] = {
        "pairs": [pair.model_dump(mode="json") for pair in pairs],
        "warnings": [problem_fields(warning) for warning in loaded.warnings],
    }
    if isinstance(loaded, Loaded):
        fields["job"] = loaded.job.model_dump(mode="json", exclude={"pairs"})
        facts = find_flow(loaded.job.model)
        if facts:
            fields["flow"] = {"family": facts.family.name, "distilled": facts.distilled and facts.distilled.why}
    if estimate and isinstance(loaded, Loaded):
        with _quiet_libraries():
            from leco_plugin.estimate.lines import estimate_fields

            fields["estimate"] = estimate_fields(loaded.job)
    return fields
