"""`convert`: one source to its results, with a report of what did not carry over."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import toml

from leco_converters.flags import command_line, in_job_only
from leco_converters.leco_job import leco_job
from leco_converters.prompt_tables import top
from leco_converters.report import Report
from leco_converters.request import Plan, Request, Target
from leco_converters.settings import Outcome, add_defaults, untrained
from leco_converters.slider_job import slider_job
from leco_converters.tree import Node, Source, places, plain
from leco_converters.understand import understand
from leco_converters.write import Output, refuse_taken, write_all
from leco_converters.write_toml import write_toml
from leco_converters.write_yaml import commented, write_yaml
from leco_plugin.config import yaml_file
from leco_plugin.config.build import build_job
from leco_plugin.config.files import Document
from leco_plugin.config.findings import Findings, Key, key_text
from leco_plugin.config.prompts import read_prompts
from leco_plugin.config.schema import LecoConfig
from leco_plugin.errors import ConfigError, Problem, Where

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FILES = ("neutral_prompt_file", "prompt_file")
_SAID_ELSEWHERE = ("job", "type", "name", "meta")
"""Keys that say what file this is; without them nothing is trained otherwise."""


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote."""

    origin: str
    written: tuple[Path, ...]
    """Empty where a strict conversion lost something."""
    pairs: int
    report: Report
    flags: str = ""


def convert(request: Request) -> Conversion:
    """Convert one file; raises ConfigError where it cannot be read, converted or written.

    Where something is lost and ``request.strict`` is set, nothing is written.
    """
    plan = understand(request.source)
    to = _direction(request, plan)
    target = request.target or _beside(request.source, to)
    sources = [request.source, plan.source.path, plan.prompt_source.path]
    _move_files(plan, target.parent, sources)
    pairs = _check_prompts(plan, target.parent)
    if to != "toml" or request.job or request.flags:
        _complete(plan)
    flags = ""
    if to == "toml":
        outputs, flags = _toml(request, plan, target)
    elif to == "leco-job":
        outputs = [_inline_job(request, plan, target)]
    else:
        job = slider_job(plan, _name(plan, request), request.model)
        outputs = [_yaml_output(job, target, plan, plan.source, plan.prompt_source)]
    refuse_taken([output.path for output in outputs], sources, request.force)
    written = () if request.strict and plan.report.lost else tuple(output.path for output in outputs)
    if written:
        write_all(outputs, request.force)
    return Conversion(plan.origin, written, pairs, plan.report, flags)


def _direction(request: Request, plan: Plan) -> Target:
    """Return what to write; raises ConfigError where the target's ending, or the source, says otherwise."""
    is_toml = request.source.suffix.lower() == ".toml"
    ending = request.target.suffix.lower() if request.target else ""
    to = request.to
    if to is None:
        to = "leco-job" if is_toml or ending in (".yaml", ".yml") else "toml"
    if ending and ending not in ((".toml",) if to == "toml" else (".yaml", ".yml")):
        wanted = ".toml" if to == "toml" else ".yaml"
        raise ConfigError(
            f"{request.target}: the result is a {wanted} file", fix=f"name the target *{wanted}, or use --to"
        )
    if to == plan.origin or (to == "toml" and is_toml):
        raise ConfigError(f"{request.source}: already is what it would become", fix="choose another format with --to")
    if to != "toml" and (request.job or request.flags):
        raise ConfigError("--job and --flags go with a prompt TOML", fix="leave them away, or use --to toml")
    return to


def _beside(source: Path, to: Target) -> Path:
    if to == "toml":
        return source.with_suffix(".toml")
    target = source.with_suffix(".yaml")
    return target if target != source else source.with_name(f"{source.stem}_{to.replace('-', '_')}.yaml")


def _complete(plan: Plan) -> None:
    """Refuse a family that cannot be trained, and write out what the source leaves to its trainer's defaults."""
    settings = plan.settings
    if settings is None:
        return
    if settings.untrained is not None:
        node = settings.untrained
        where = Where(plan.source.path, node.line, key_text(node.key))
        fix = "train it where the job is from, or convert its prompts alone, without --job and --flags"
        raise ConfigError(Problem(where, untrained(node), fix))
    for table, was in add_defaults(settings, plan.rows):
        plan.report.note("added", plan.source, table, was, "written out")


def _toml(request: Request, plan: Plan, target: Path) -> tuple[list[Output], str]:
    """Return the prompt file, with its job file where that is wanted, and the command line."""
    job_path = _job_path(request, target)
    flags, of_flags = "", None
    of_job = plan.settings.outcomes if plan.settings else []
    extra: list[Output] = []
    if request.flags:
        flags, of_flags = command_line(plan, target, _name(plan, request), request.model)
        _note_preserved(plan)
    if job_path:
        name = os.path.relpath(target, job_path.parent)
        prompts = Node({"prompts_file": Node(Path(name).as_posix())})
        job = leco_job(plan, _name(plan, request), request.model, prompts)
        _check_job(plan, job, target.parent / job_path.name)
        _note_outcomes(plan, [*of_job, *in_job_only(of_job, of_flags or ())])
        extra.append(_yaml_output(job, job_path, plan, *([plan.source] if plan.settings else [])))
    elif of_flags is not None:
        _note_outcomes(plan, [*of_job, *of_flags])
    head, tail = plan.prompt_source.head, plan.prompt_source.tail
    if plan.settings and not job_path:
        tail = [*_run_settings(plan, noted=of_flags is not None), *tail]
    elif plan.settings and plan.source is plan.prompt_source:
        head, tail = [], []  # they stand in the job file
    text = write_toml(plan.prompts, head, tail)
    return [Output(target, text, _TomlCheck(plain(plan.prompts), target)), *extra], flags


def _inline_job(request: Request, plan: Plan, target: Path) -> Output:
    model = request.model
    if plan.setting("model.name_or_path") is None and not model:
        model = "builtin:tiny"
        was = "the source names no base model"
        plan.report.note("added", plan.source, plan.source.root, was, f"{model} is written; put yours there")
    job = leco_job(plan, _name(plan, request), model, plan.prompts)
    _check_job(plan, job, target)
    _note_outcomes(plan, plan.settings.outcomes if plan.settings else [])
    return _yaml_output(job, target, plan, plan.source, plan.prompt_source)


def _run_settings(plan: Plan, *, noted: bool) -> list[str]:
    """Return what a prompt file cannot hold as comments, so that no text is lost.

    What asks for something goes to the report, unless it is ``noted`` there.
    """
    settings, root = plan.settings, plan.source.root
    assert settings is not None
    config, process = settings.tables["config"], settings.tables[""]
    listed = config.table.get("process", Node([]))
    lines: list[str] = [] if plan.source is plan.prompt_source else list(plan.source.head)
    options = process.table.get("leco", Node({})) if plan.origin == "leco-job" else Node({})
    kept = {name: node for name, node in options.table.items() if name in {*LecoConfig.model_fields, "prompts_file"}}
    for table in (root, config, listed, process, options.like(kept)):
        if table is not root or process is not root:
            lines += [*table.before, *([table.after] if table.after else [])]
        for name, node in table.table.items() if table is not process or table is root or process is not root else ():
            if name in ("config", "process", "leco", "slider"):
                lines += node.before if name == "slider" else []
                continue
            if not noted and name not in _SAID_ELSEWHERE and (id(node) in settings.asked or table is not process):
                was = "a setting of the run, which a prompt file does not hold"
                plan.report.note("lost", plan.source, node, was, "kept as a comment; --job writes it to a job file")
            lines += commented(name, node, heading="")
        if process is root:
            break
    if plan.source is not plan.prompt_source:
        lines += plan.source.tail
    return ["", f"# Not carried over from {plan.source.path.name}:", "", *lines]


def _check_prompts(plan: Plan, folder: Path) -> int:
    """Read the prompts as a prompt file is read; raises ConfigError at their places in the source."""
    tree, path = plain(plan.prompts), plan.prompt_source.path
    findings = Findings(path)
    pairs = read_prompts(tree, findings, folder).pairs
    if findings.errors:
        # the lines are only looked up where they are needed: a large file has many
        findings = Findings(path, _lines(plan.prompts))
        read_prompts(tree, findings, folder)
        raise ConfigError(_at_source(findings.errors, plan.prompts))
    return len(pairs)


def _check_job(plan: Plan, job: Node, path: Path) -> None:
    """Read the job as a job file is read; raises ConfigError at its places in the source."""
    tree = plain(job)
    assert isinstance(tree, dict)
    process = tree["config"]["process"][0]
    # the prompts are checked already; one in their place is enough here
    options = {name: value for name, value in process["leco"].items() if name in LecoConfig.model_fields}
    process["leco"] = {**options, "preserve": [], "target": ""}
    if "name_or_path" not in process.get("model", {}):
        raise ConfigError(Problem(Where(plan.source.path), "there is no base model", "name it with --model"))
    try:
        build_job(Document(path, tree, _lines(job)))
    except ConfigError as error:
        at = [replace(problem, where=_moved(problem.where, plan.source.path)) for problem in error.problems]
        raise ConfigError(_at_source(at, job)) from None


def _lines(root: Node) -> dict[Key, int]:
    return {key: node.line for key, node in places(root) if node.line is not None}


def _at_source(problems: Sequence[Problem], root: Node) -> list[Problem]:
    """Name the keys of a result as the source does."""
    names = {key_text(key): key_text(node.key) for key, node in places(root) if node.key}
    moved = []
    for problem in problems:
        where = problem.where
        known = where is not None and where.key in names
        moved.append(replace(problem, where=replace(where, key=names[where.key])) if where and known else problem)
    return moved


def _moved(where: Where | None, path: Path) -> Where | None:
    return where and Where(path, where.line, where.key)


def _move_files(plan: Plan, folder: Path, sources: list[Path]) -> None:
    """Let files of neutrals be found from the target's folder too."""
    base = plan.prompt_source.path.parent
    for _, node in places(plan.prompts):
        for name in _FILES:
            child = node.table.get(name)
            if child is None or child.left_out or not isinstance(child.value, str) or not child.value:
                continue
            sources.append(base / child.value)
            if not Path(child.value).is_absolute() and base.resolve() != folder.resolve():
                child.value, child.raw = _relative(base / child.value, folder), ""


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()


def _job_path(request: Request, target: Path) -> Path | None:
    if isinstance(request.job, Path):
        if request.job.suffix.lower() not in (".yaml", ".yml"):
            raise ConfigError(f"{request.job}: a job file is a .yaml file", fix="name it so")
        return request.job
    return target.with_name(f"{target.stem}_job.yaml") if request.job else None


def _name(plan: Plan, request: Request) -> str:
    found = plan.setting("name")
    return str(found.value) if found else request.source.stem


def _note_outcomes(plan: Plan, outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        plan.report.note(outcome.kind, plan.source, outcome.node, outcome.was, outcome.done)


def _note_preserved(plan: Plan) -> None:
    preserve = top(plan.prompts).table.get("preserve")
    if preserve is not None and preserve.items:
        was = "sd-scripts' own trainers do not read it"
        plan.report.note("changed", plan.prompt_source, preserve, was, "stands in the prompt file, for leco's")


@dataclass(frozen=True)
class _TomlCheck:
    """Reads a prompt file back with both parsers."""

    tree: object
    path: Path

    def __call__(self, written: Path) -> None:
        text = written.read_text(encoding="utf-8")
        try:
            other = toml.loads(text)
            mine = tomllib.loads(text)
        except Exception as error:  # noqa: BLE001 - the parsers fail in many ways, and each means the same here
            raise ConfigError(f"{self.path}: the result cannot be read back: {error}", fix="report this file") from None
        if not (mine == self.tree and other == self.tree):
            raise ConfigError(f"{self.path}: the result reads back otherwise", fix="report this file")


@dataclass(frozen=True)
class _YamlCheck:
    """Reads a job file back."""

    tree: object
    path: Path

    def __call__(self, written: Path) -> None:
        tree, _ = yaml_file.parse(written.read_text(encoding="utf-8"), self.path)
        if tree != self.tree:
            raise ConfigError(f"{self.path}: the result reads back otherwise", fix="report this file")


def _yaml_output(root: Node, path: Path, plan: Plan, *sources: Source) -> Output:
    unique = list({id(source): source for source in sources}.values())
    head = [line for source in unique for line in source.head]
    tail = [line for source in unique for line in source.tail]
    return Output(path, write_yaml(root, head, tail), _YamlCheck(plain(root), path))
