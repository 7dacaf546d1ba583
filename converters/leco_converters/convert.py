"""`convert`: one source to its results, with a report of what did not carry over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leco_converters.flags import command_line, in_job_only
from leco_converters.jobs import leco_job, slider_job
from leco_converters.model import Settled, settled
from leco_converters.prompt_tables import top
from leco_converters.report import Report
from leco_converters.settings import Plan, add_defaults
from leco_converters.tree import Node, Source, places, plain
from leco_converters.understand import understand
from leco_converters.write import Output, refuse_taken, write_all
from leco_converters.write_toml import write_toml
from leco_converters.write_yaml import commented, left_out, write_yaml
from leco_plugin.config.build import build_job
from leco_plugin.config.editors import with_schema_line
from leco_plugin.config.files import Document
from leco_plugin.config.findings import Findings, Key, refusal
from leco_plugin.config.prompts import read_prompts
from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.errors import ConfigError, Where

Target = Literal["toml", "ai-toolkit", "leco-job"]
_FILES = ("neutral_prompt_file", "prompt_file")
_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Request:
    """One conversion."""

    source: Path
    target: Path | None = None
    """Where the result goes; absent: beside the source, with another ending."""
    to: Target | None = None
    """absent: TOML becomes a job of ours, everything else a prompt TOML."""
    job: Path | bool = False
    """Write a job file beside a prompt TOML; True: beside it, as ``..._job.yaml``."""
    flags: bool = False
    """Make the command line of sd-scripts too."""
    strict: bool = False
    """Write nothing where anything is lost."""
    force: bool = False
    """Replace files that are there; the source never is."""
    model: str = ""
    """Name of the base model, where the source does not say."""


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
    plan.name = str(plain(plan.settings.values.get("name")) or request.source.stem)
    to = _direction(request, plan)
    target = request.target or _beside(request.source, to)
    sources = [request.source, plan.source.path, plan.prompt_source.path]
    _move_files(plan, target.parent, sources)
    pairs = _check_prompts(plan, target.parent)
    if to != "toml" or request.job or request.flags:
        add_defaults(plan)
    model = settled(plan, pairs, request.model)
    outputs, flags = _toml(request, plan, target, model) if to == "toml" else ([_job(plan, target, model, to)], "")
    refuse_taken([output.path for output in outputs], sources, request.force)
    written = () if request.strict and plan.report.lost else tuple(output.path for output in outputs)
    if written:
        write_all(outputs)
    return Conversion(plan.origin, written, len(pairs), plan.report, flags)


def _direction(request: Request, plan: Plan) -> Target:
    """Return what to write; raises ConfigError where the target's ending, or the source, says otherwise."""
    is_toml = request.source.suffix.lower() == ".toml"
    ending = request.target.suffix.lower() if request.target else ""
    to = request.to
    if to is None:
        to = "leco-job" if is_toml or ending in _YAML else "toml"
    wanted = (".toml",) if to == "toml" else _YAML
    if ending and ending not in wanted:
        fix = f"name the target *{wanted[0]}, or use --to"
        raise ConfigError(f"{request.target}: the result is a {wanted[0]} file", fix=fix)
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


def _toml(request: Request, plan: Plan, target: Path, model: Settled) -> tuple[list[Output], str]:
    """Return the prompt file, with its job file where that is wanted, and the command line."""
    flags, of_flags, of_job = "", None, plan.settings.report.notes
    job_path = target.with_name(f"{target.stem}_job.yaml") if request.job is True else request.job or None
    if job_path and job_path.suffix.lower() not in _YAML:
        raise ConfigError(f"{job_path}: a job file is a .yaml file", fix="name it so")
    if request.flags:
        flags, of_flags = command_line(plan, target, model)
        preserve = top(plan.prompts).at("preserve")
        if preserve.items:
            plan.report.say("kept_apart", preserve)
    jobs: list[Output] = []
    head, tail = plan.prompt_source.head, plan.prompt_source.tail
    if job_path:
        prompts = Node({"prompts_file": Node(_relative(target, job_path.parent))})
        job, left = leco_job(plan, model, prompts)
        _check_job(plan, job, target.parent)
        plan.report.notes += [*of_job, *in_job_only(of_job, of_flags.notes if of_flags else ())]
        jobs = [_yaml(job, job_path, left, [plan.source] if plan.settings.tables else [])]
        if plan.settings.tables and plan.source is plan.prompt_source:
            head, tail = [], []  # they stand in the job file
    elif of_flags is not None:
        plan.report.notes += [*of_job, *of_flags.notes]
    if plan.settings.tables and not job_path:
        tail = [*_run_settings(plan, noted=of_flags is not None), *tail]
    text = with_schema_line("prompts", write_toml(plan.prompts, head, [*left_out(plan.report.left), *tail]))
    return [Output(target, text, plain(plan.prompts)), *jobs], flags


def _job(plan: Plan, target: Path, model: Settled, to: Target) -> Output:
    """The job that holds its prompts itself: one of ours, or of ai-toolkit's slider."""
    ours = to == "leco-job"
    job, left = leco_job(plan, model, plan.prompts) if ours else slider_job(plan, model)
    if ours:
        _check_job(plan, job, target.parent)
        plan.report.notes += plan.settings.report.notes
    sources = {id(source): source for source in (plan.source, plan.prompt_source)}
    return _yaml(job, target, [*plan.report.left, *left], list(sources.values()), ours=ours)


def _yaml(root: Node, path: Path, left: Sequence[Node], sources: Sequence[Source], *, ours: bool = True) -> Output:
    """A job with the comments at both ends of its sources; one of ours names its schema."""
    head = [line for source in sources for line in source.head]
    tail = [line for source in sources for line in source.tail]
    text = write_yaml(root, head, [*left_out(left), *tail])
    return Output(path, with_schema_line("job", text) if ours else text, plain(root))


def _run_settings(plan: Plan, *, noted: bool) -> list[str]:
    """Return what a prompt file cannot hold as comments, so that no text is lost.

    What asks for something goes to the report, unless it is ``noted`` there.
    """
    settings, root = plan.settings, plan.source.root
    config, process = settings.tables["config"], settings.tables[""]
    options = process.table.get("leco", Node({})) if plan.origin == "leco-job" else Node({})
    prompts = options.table.keys() - {*LecoConfig.model_fields, "prompts_file"}
    lines: list[str] = [] if plan.source is plan.prompt_source else list(plan.source.head)
    for table in {id(one): one for one in (root, config, config.table.get("process", root), process, options)}.values():
        lines += table.around if table is not root else []
        for name, node in table.table.items():
            if name in ("config", "process", "leco", "slider", *(prompts if table is options else ())):
                lines += node.before if name == "slider" else []
                continue
            lines += commented([node])
            asks = table is not process or plan.origin == "leco-job" or settings.asks(node)
            if asks and not noted and name not in ("job", "type", "name", "meta", "prompts_file"):
                plan.report.say("of_the_run", node)
    tail = plan.source.tail if plan.source is not plan.prompt_source else []
    return ["", f"# Not carried over from {plan.source.path.name}:", "", *lines, *tail]


def _check_prompts(plan: Plan, folder: Path) -> Sequence[PromptPair]:
    """Read the prompts as a prompt file is read; raises ConfigError at their places in the source."""
    findings = Findings(plan.prompt_source.path, {}, _places(plan.prompts, plan.prompt_source.path))
    pairs = read_prompts(plain(plan.prompts), findings, folder).pairs
    findings.raise_errors()
    return pairs


def _check_job(plan: Plan, job: Node, folder: Path) -> None:
    """Read the job as a job file is read; raises ConfigError at its places in the source."""
    tree: Any = plain(job)
    process = tree["config"]["process"][0]
    # the prompts are checked already; one in their place is enough here
    options = {name: value for name, value in process["leco"].items() if name in LecoConfig.model_fields}
    process["leco"] = {**options, "preserve": [], "target": ""}
    if "name_or_path" not in process.get("model", {}):
        raise refusal(plan.source.path, "there is no base model", "name it with --model")
    build_job(Document(folder / plan.source.path.name, tree, places=_places(job, plan.source.path)))


def _places(root: Node, path: Path) -> dict[Key, Where]:
    return {key: node.where(path) for key, node in places(root) if node.key}


def _move_files(plan: Plan, folder: Path, sources: list[Path]) -> None:
    """Let files of neutrals be found from the target's folder too."""
    base = plan.prompt_source.path.parent
    for key, node in places(plan.prompts):
        if key and key[-1] in _FILES and isinstance(node.value, str) and node.value:
            sources.append(base / node.value)
            if not Path(node.value).is_absolute() and base.resolve() != folder.resolve():
                node.value, node.raw = _relative(base / node.value, folder), ""


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()
