"""`leco check`: what a job or prompt file means and what it will need, without loading a model.

Imports neither torch nor any model library before all but the estimate is told, so that the answer comes at once.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TextIO

from leco_plugin.commands.codes import OK, REFUSED
from leco_plugin.config.build import Loaded, LoadedPrompts, load
from leco_plugin.config.flow_rules import refusals, remarks, without_effect
from leco_plugin.config.idle import idle_settings, refuse_nothing
from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.config.words import equation, in_words, quote, settings
from leco_plugin.errors import ConfigError, Problem, Where, harmless
from leco_plugin.families.known import Settled, check_named, settle
from leco_plugin.streams import problem_fields, write_json, write_lines

_OF_PAIRS = "pair."
Rows = Sequence[Sequence[str]]


class Teller(Protocol):
    """What tells it: ``Plain``, or a page on a terminal."""

    def section(self, title: str, rows: Rows = ()) -> None:
        """A title, and rows of cells below it."""

    def prose(self, lines: Iterable[str]) -> None:
        """Each line as soon as it is there."""

    def working(self, what: str) -> AbstractContextManager[object]:
        """Block during which ``what`` is under way."""


class Plain:
    """Tells it in plain lines, for a pipe or a file."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def section(self, title: str, rows: Rows = ()) -> None:
        """A title and its rows, in columns."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        cells = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        write_lines(self._out, (title, *(f"  {row}".rstrip() for row in cells)))

    def prose(self, lines: Iterable[str]) -> None:
        """Each line as soon as it is there."""
        for line in lines:
            write_lines(self._out, [line])
            self._out.flush()

    def working(self, what: str) -> AbstractContextManager[object]:
        """Nothing is to be seen of it."""
        return nullcontext()


@dataclass(frozen=True)
class Ways:
    """How much is told, and in what form."""

    json: bool = False
    estimate: bool = True
    """Tell memory and time, too."""
    everything: bool = False
    """Tell every pair and every option."""


def check(path: str | Path, ways: Ways, teller: Teller, out: TextIO, err: TextIO) -> int:
    """Report what ``path`` says; return 0 where it can be run, 2 where it has errors.

    ``teller`` tells it; errors and warnings go to ``err``. In JSON everything is one object on ``out``.
    """
    try:
        loaded = load(path)
        if isinstance(loaded, Loaded):
            refuse_nothing(loaded.job.pairs)
    except ConfigError as error:
        return _refuse(error.problems, ways, out, err)
    if isinstance(loaded, LoadedPrompts):
        settled, said = None, loaded.warnings
    else:
        settled = settle(loaded.job)
        said, refused = _for_its_model(loaded, settled)
        if refused:
            return _refuse(refused, ways, out, err)
    if ways.json:
        write_json(out, _fields(loaded, settled, said, ways))
        return OK
    for title, rows in _sections(loaded, settled, ways):
        teller.section(title, rows)
    write_lines(err, (f"warning: {warning}" for warning in said))
    if ways.estimate and settled:
        out.flush()
        _tell_estimate(teller, settled.job, ways)
    return OK


def _refuse(problems: Sequence[Problem], ways: Ways, out: TextIO, err: TextIO) -> int:
    if ways.json:
        write_json(out, {"errors": [problem_fields(problem) for problem in problems]})
    else:
        write_lines(err, map(str, problems))
    return REFUSED


def _for_its_model(loaded: Loaded, settled: Settled) -> tuple[tuple[Problem, ...], list[Problem]]:
    """What is odd about the job, and what of it means nothing to its model, as far as that model's files tell."""
    job, flow = settled.job, settled.flow
    said = (*loaded.warnings, *idle_settings(job), *_not_here(loaded))
    if flow is None:
        return said, []
    said += (*remarks(job, flow.distilled), *without_effect(job.pairs, flow.family.title))
    return said, list(refusals(loaded.job, flow.family, takes_guidance=flow.takes_guidance))


def _not_here(loaded: Loaded) -> Iterator[Problem]:
    """A warning where the model is not on this machine: the job may be for another one."""
    try:
        check_named(loaded.job.model.name_or_path)
    except ConfigError as error:
        where = Where(loaded.path, key="model.name_or_path")
        yield from (replace(problem, where=where) for problem in error.problems)


def _tell_estimate(teller: Teller, job: JobConfig, ways: Ways) -> None:
    with _quiet_libraries(), teller.working("estimating memory and time"):
        from leco_plugin.estimate.lines import estimate_lines

        teller.prose(estimate_lines(job, parts=ways.everything))


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


def _sections(loaded: Loaded | LoadedPrompts, settled: Settled | None, ways: Ways) -> Iterator[tuple[str, Rows]]:
    """What will be trained, in words; what differs from the defaults; on wish every pair and every option."""
    pairs = settled.job.pairs if settled else _pairs(loaded)
    what = "a job that can be run" if settled else "prompts that can be trained"
    rows = [[line] for line in (*in_words(pairs), *_shared(pairs, _preserved(loaded)))]
    yield f"{loaded.path}: {what}", [*rows, *([line] for line in (_with_what(settled) if settled else ()))]
    number = f"{len(pairs)} training pair{'s' if len(pairs) != 1 else ''}"
    if ways.everything:
        yield number, [[f"{at}.", line] for at, pair in enumerate(pairs, 1) for line in _told(pair)]
    else:
        yield number, ()
    if settled:
        yield from _options(loaded, settled, ways)
    if not ways.everything:
        yield "every pair and option: leco check --all", ()


def _told(pair: PromptPair) -> tuple[str, str]:
    return equation(pair), settings(pair)


def _pairs(loaded: Loaded | LoadedPrompts) -> tuple[PromptPair, ...]:
    return loaded.pairs if isinstance(loaded, LoadedPrompts) else loaded.job.pairs


def _preserved(loaded: Loaded | LoadedPrompts) -> tuple[str, ...]:
    return loaded.preserve if isinstance(loaded, LoadedPrompts) else loaded.job.leco.preserve


def _shared(pairs: Sequence[PromptPair], preserved: Sequence[str]) -> Iterator[str]:
    sizes = dict.fromkeys(f"{pair.resolution[0]} x {pair.resolution[1]}" for pair in pairs)
    strengths = dict.fromkeys(f"{pair.guidance_scale:g}" for pair in pairs if not pair.keeps)
    edit = f"edit strength {', '.join(strengths)}, " if strengths else ""
    yield f"{edit}at {', '.join(sizes)} pixels"
    if list(preserved) == ["auto"]:
        yield "keeps as it is what lies near: found by the built-in host when training begins; check --model shows it"
    elif preserved:
        yield f"keeps as they are: {', '.join(map(quote, preserved))}"


def _with_what(settled: Settled) -> Iterator[str]:
    """With which model, how long, and where the LoRA will be."""
    job, train = settled.job, settled.job.train
    family = f" ({settled.title})" if settled.title and not settled.title.startswith("builtin") else ""
    yield f"on {harmless(job.model.name_or_path)}{family}: {train.steps} steps at lr {train.learning_rate:g}"
    if settled.flow:
        distilled = settled.flow.distilled
        kind = f"distilled: {distilled.why}" if distilled else "not distilled, by its config files"
        yield f"a flow model, {kind}"
    yield f"walks of {job.leco.max_denoising_steps} steps at guidance {job.leco.denoise_guidance_scale:g}"
    yield f"writes {harmless(str(job.output_folder / job.name))}.{job.save.format}"


def _options(loaded: Loaded | LoadedPrompts, settled: Settled, ways: Ways) -> Iterator[tuple[str, Rows]]:
    """Options that the job sets to something else than they have anyway, and what its family has."""
    assert isinstance(loaded, Loaded)
    values = dict(_leaves(settled.job.model_dump(mode="json", exclude={"pairs"})))
    origin = f"default for {settled.title}"
    if ways.everything:
        yield "every option", [[name, _plain(value), _origin(name, settled)] for name, value in values.items()]
        return
    usual = dict(_leaves(_usual(settled)))
    changed = [*_prompts_changed(settled, origin)] + [
        [name, _plain(value), _instead(usual.get(name), origin if name in settled.table else "default")]
        for name, value in values.items()
        if value != usual.get(name) and name not in ("name", "model.name_or_path")
    ]
    yield "what differs from the defaults", changed or [["nothing"]]
    taken = [[name, _plain(value), origin] for name, value in _taken(settled).items()]
    if taken:
        yield "what the job leaves open (other hosts have their own defaults)", taken


def _prompts_changed(settled: Settled, origin: str) -> Iterator[list[str]]:
    """What the prompts say themselves of what the family has a default for."""
    for dotted, usual in settled.table.items():
        name = dotted.removeprefix(_OF_PAIRS)
        if name == dotted or dotted in settled.taken:
            continue
        said = dict.fromkeys(_one_side(getattr(pair, name)) for pair in settled.job.pairs if not pair.keeps)
        if list(said) != [usual]:
            yield [f"prompts: {name}", ", ".join(map(_plain, said)), _instead(usual, origin)]


def _one_side(value: object) -> object:
    """A square by its side."""
    if isinstance(value, tuple):
        return value[0] if value[0] == value[1] else " x ".join(map(str, value))
    return value


def _usual(settled: Settled) -> dict[str, Any]:
    """A job that says nothing, for the same model."""
    bare = JobConfig(name="name", model=settled.job.model, pairs=settled.job.pairs)
    return settle(bare).job.model_dump(mode="json", exclude={"pairs"})


def _instead(value: object, origin: str) -> str:
    return f"({origin}: {_plain(value)})"


def _origin(name: str, settled: Settled) -> str:
    return f"default for {settled.title}" if name in settled.taken else ""


def _taken(settled: Settled) -> dict[str, object]:
    """What the family's defaults are for, as it counts in the end."""
    values = dict(_leaves(settled.job.model_dump(mode="json", exclude={"pairs"})))
    return {
        name.replace(_OF_PAIRS, "prompts: "): values.get(name, settled.table[name])
        for name in settled.table
        if name in settled.taken
    }


def _leaves(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _plain(value: object) -> str:
    if value is None or value == {}:
        return "not set"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else harmless(str(value)) or '""'


def _fields(
    loaded: Loaded | LoadedPrompts, settled: Settled | None, said: Sequence[Problem], ways: Ways
) -> dict[str, object]:
    pairs = settled.job.pairs if settled else _pairs(loaded)
    fields: dict[str, object] = {
        "pairs": [pair.model_dump(mode="json") for pair in pairs],
        "warnings": [problem_fields(warning) for warning in said],
    }
    if settled is None:
        return fields
    fields["job"] = settled.job.model_dump(mode="json", exclude={"pairs"})
    fields["family"], fields["defaults"] = settled.family, {name: settled.table[name] for name in sorted(settled.taken)}
    if settled.flow:
        distilled = settled.flow.distilled
        fields["flow"] = {"family": settled.flow.family.name, "distilled": distilled and distilled.why}
    if ways.estimate:
        with _quiet_libraries():
            from leco_plugin.estimate.lines import estimate_fields

            fields["estimate"] = estimate_fields(settled.job)
    return fields
