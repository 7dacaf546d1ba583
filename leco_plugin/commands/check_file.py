"""`leco check`: what a job or prompt file means and what it will need, without loading a model.

Imports neither torch nor any model library before all but the estimate is told, so that the answer comes at once.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from leco_plugin.commands.codes import OK, REFUSED
from leco_plugin.commands.tellers import Rows, Teller, Ways
from leco_plugin.config.build import Loaded, LoadedPrompts, load
from leco_plugin.config.defaults import Defaulted
from leco_plugin.config.flow_rules import refusals, remarks, without_effect
from leco_plugin.config.idle import idle_settings, refuse_nothing
from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.config.words import equation, in_words, quote, settings
from leco_plugin.errors import ConfigError, PluginError, Problem, Where, harmless
from leco_plugin.families.known import Settled, check_named, lacking_parts, settle
from leco_plugin.streams import problem_fields, write_json, write_lines

_OF_PAIRS = "pair."


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


def check_hosted(name: str, files: Sequence[Path], ways: Ways, teller: Teller, out: TextIO, err: TextIO) -> int:
    """Report what LECO does with ``files`` in another host, whose own options are not looked at; codes as above."""
    from leco_plugin.plugins import find_host, plugin_manager

    read = getattr(find_host(name, plugin_manager()), "read", None)
    if read is None:
        raise PluginError(f"the host {name} does not tell what its files mean", fix="leco host lists what each one has")
    try:
        found, warnings = read(files)
        refuse_nothing(found.job.pairs)
    except ConfigError as error:
        return _refuse(error.problems, ways, out, err)
    if ways.json:
        fields = {name: found.job.model_dump(mode="json")[name] for name in ("pairs", "leco")}
        said = {"warnings": [problem_fields(warning) for warning in warnings], "family": found.title}
        write_json(out, {**fields, **said, "defaults": {one: found.table[one] for one in sorted(_of_leco(found))}})
        return OK
    for title, rows in _hosted_sections(name, files[-1], found, ways):
        teller.section(title, rows)
    write_lines(err, (f"warning: {warning}" for warning in warnings))
    return OK


def _hosted_sections(name: str, path: Path, found: Defaulted, ways: Ways) -> Iterator[tuple[str, Rows]]:
    job, pairs = found.job, found.job.pairs
    walk = f"walks of {job.leco.max_denoising_steps} steps at guidance {job.leco.denoise_guidance_scale:g}"
    on = f"on {harmless(job.model.name_or_path)} ({found.title}), trained by {name}"
    rows = [[line] for line in (*in_words(pairs), *_shared(pairs, job.leco.preserve), on, walk)]
    yield f"{path}: what LECO does in {name}, whose own options are not checked here", rows
    yield _numbered(pairs, ways)
    if ways.everything:
        leco = job.leco.model_dump(mode="json").items()
        yield "every option of LECO", [[f"leco.{option}", _plain(value)] for option, value in leco]
    taken = [[option, _plain(value), f"default for {found.title}"] for option, value in _taken(found, _of_leco(found))]
    if taken:
        yield "what is left open", taken


def _of_leco(found: Defaulted) -> list[str]:
    """What the family's defaults are for that is the same in every host."""
    return [option for option in found.table if option in found.taken and option.startswith(("leco.", _OF_PAIRS))]


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
        return said, lacking_parts(job.model)
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
    rows = [[line] for line in (*in_words(pairs), *_shared(pairs, _preserved(loaded), "; check --model shows it"))]
    yield f"{loaded.path}: {what}", [*rows, *([line] for line in (_with_what(settled) if settled else ()))]
    yield _numbered(pairs, ways)
    if settled:
        yield from _options(loaded, settled, ways)
    if not ways.everything:
        yield "every pair and option: leco check --all", ()


def _numbered(pairs: Sequence[PromptPair], ways: Ways) -> tuple[str, Rows]:
    """How many pairs there are, and on wish each."""
    each = [[f"{at}.", line] for at, pair in enumerate(pairs, 1) for line in _told(pair)]
    return f"{len(pairs)} training pair{'s' if len(pairs) != 1 else ''}", each if ways.everything else ()


def _told(pair: PromptPair) -> tuple[str, str]:
    return equation(pair), settings(pair)


def _pairs(loaded: Loaded | LoadedPrompts) -> tuple[PromptPair, ...]:
    return loaded.pairs if isinstance(loaded, LoadedPrompts) else loaded.job.pairs


def _preserved(loaded: Loaded | LoadedPrompts) -> tuple[str, ...]:
    return loaded.preserve if isinstance(loaded, LoadedPrompts) else loaded.job.leco.preserve


def _shared(pairs: Sequence[PromptPair], preserved: Sequence[str], shown: str = "") -> Iterator[str]:
    sizes = dict.fromkeys(f"{pair.resolution[0]} x {pair.resolution[1]}" for pair in pairs)
    strengths = dict.fromkeys(f"{pair.guidance_scale:g}" for pair in pairs if not pair.keeps)
    edit = f"edit strength {', '.join(strengths)}, " if strengths else ""
    yield f"{edit}at {', '.join(sizes)} pixels"
    if list(preserved) == ["auto"]:
        yield f"keeps as it is what lies near: found when training begins{shown}"
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
    taken = [[name, _plain(value), origin] for name, value in _taken(settled, settled.taken)]
    if taken:
        yield "what the job leaves open (ai-toolkit has its own defaults for network and train)", taken


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


def _taken(found: Defaulted, options: Collection[str]) -> Iterator[tuple[str, object]]:
    """Those ``options`` that the family's defaults are for, as they count in the end."""
    values = dict(_leaves(found.job.model_dump(mode="json", exclude={"pairs"})))
    for option in found.table:
        if option in options:
            yield option.replace(_OF_PAIRS, "prompts: "), values.get(option, found.table[option])


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
