"""`leco check`: what a job or prompt file means and what it will need, without loading a model.

Imports neither torch nor any model library before all but the estimate is told, so that the answer comes at once.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from leco_plugin.config.build import Loaded, LoadedPrompts, load
from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.config.words import equation, settings
from leco_plugin.errors import ConfigError, harmless
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
    except ConfigError as error:
        if json_output:
            write_json(out, {"errors": [problem_fields(problem) for problem in error.problems]})
        else:
            write_lines(err, map(str, error.problems))
        return REFUSED
    if json_output:
        write_json(out, _fields(loaded, estimate))
    else:
        write_lines(out, describe(loaded))
        write_lines(err, (f"warning: {warning}" for warning in loaded.warnings))
        if estimate and isinstance(loaded, Loaded):
            _write_estimate(out, loaded.job)
    return OK


def _write_estimate(out: TextIO, job: JobConfig) -> None:
    out.flush()
    with _quiet_libraries():
        from leco_plugin.estimate.lines import estimate_lines

        for line in estimate_lines(job):
            write_lines(out, [line])
            out.flush()


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Block in which model libraries do not tell what they miss: nothing is loaded or trained here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def describe(loaded: Loaded | LoadedPrompts) -> Iterator[str]:
    """Yield lines with every resolved value and every pair."""
    if isinstance(loaded, Loaded):
        yield f"{loaded.path}: a job that can be run"
        yield from _job_lines(loaded.job)
        pairs: Sequence[PromptPair] = loaded.job.pairs
    else:
        yield f"{loaded.path}: prompts that can be trained"
        pairs = loaded.pairs
    yield f"{len(pairs)} training pair{'s' if len(pairs) != 1 else ''}"
    for number, pair in enumerate(pairs, start=1):
        yield f"{number:3}. {equation(pair)}"
        yield f"     {settings(pair)}"


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
    if estimate and isinstance(loaded, Loaded):
        with _quiet_libraries():
            from leco_plugin.estimate.lines import estimate_fields

            fields["estimate"] = estimate_fields(loaded.job)
    return fields
