"""A job and its prompts as files that can be read, changed and run again: what `leco train` leaves beside a LoRA."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from leco_plugin.atomic import write_atomically
from leco_plugin.config import toml_file
from leco_plugin.config.build import build_job
from leco_plugin.config.editors import with_schema_line, without_schema_line
from leco_plugin.config.files import Document, read_text
from leco_plugin.config.idle import refuse_nothing
from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.errors import ConfigError, LecoError, Problem, Where
from leco_plugin.families.known import settle
from leco_plugin.observers.history import history_path

SEED = 42
"""Of a run that is given none: written into its job, so that running that again gives the same LoRA."""
AGAIN = "leco train {file} --set name=another"
_FLAGS = {"config.name": "--name", "model.name_or_path": "--model", "leco.preserve": "--preserve"}
_PLACE = {"name", "output_dir", "training_folder"}
OF_THIS_RUN = ("save.overwrite", "resume")
"""Options that a command line says of its own run alone, and that are no part of the written job."""
_FILES = {"neutral_prompt_file", "prompt_file"}

_OF_JOB: Mapping[str, str] = {
    "linear": "rank",
    "linear_alpha": "its effect is scaled by alpha / rank",
    "lr": "higher where it does too little",
    "steps": "optimizer steps",
    "max_denoising_steps": "sampler steps of a whole walk",
    "denoise_guidance_scale": "guidance of the walk; not the edit strength, which is guidance_scale in the prompt file",
    "pairs_per_step": "walks that a step trains at together",
    "prompts_file": "beside this file",
}


@dataclass(frozen=True)
class Words:
    """What is asked for on the command line in place of a prompt file."""

    target: str
    positive: str
    negative: str = ""
    action: str = "slider"
    """slider, erase or enhance."""
    preserve: Sequence[str] = ()

    @property
    def name(self) -> str:
        """What the LoRA is called where nothing else is said."""
        start = "" if self.action == "slider" else f"{self.action}_"
        return start + (re.sub(r"\W+", "_", self.positive).strip("_").lower()[:60] or "lora")

    def toml(self) -> str:
        """As a prompt file."""
        return "\n".join([*self._head(), "", *self._entry(), ""])

    def _head(self) -> Iterator[str]:
        yield "# What the LoRA changes. `leco check` says it in words."
        if not self.preserve and self.action != "slider":
            yield '# preserve = ["..."]   # prompts near it that shall stay as they are'
        if self.preserve:
            kept = "auto" if list(self.preserve) == ["auto"] else list(self.preserve)
            near = "what lies near it, found by the model's own words; or a list of prompts"
            about = near if kept == "auto" else "what shall stay as it is"
            yield f"preserve = {json.dumps(kept, ensure_ascii=False)}   # {about}"

    def _entry(self) -> Iterator[str]:
        if self.action == "slider":
            yield "[[targets]]"
            # measured from the target itself: another neutral would pull it away
            entry = {"target_class": self.target, "positive": self.positive, "negative": self.negative}
            entry["neutral"] = self.target
        else:
            yield "[[prompts]]"
            neutral = self.target if self.action == "enhance" else ""
            entry = {"target": self.target, "positive": self.positive, "neutral": neutral, "action": self.action}
        yield from (f"{name} = {json.dumps(text, ensure_ascii=False)}" for name, text in entry.items() if text)


def pinned(toml: str, pairs: Sequence[PromptPair]) -> str:
    """``toml`` with the size and edit strength of ``pairs`` written out where it says nothing of them."""
    side, strength = pairs[0].resolution, pairs[0].guidance_scale
    size = str(side[0]) if side[0] == side[1] else str(list(side))
    lines = []
    if not any("resolution" in pair.model_fields_set for pair in pairs):
        lines.append(f"resolution = {size}")
    if not any("guidance_scale" in pair.model_fields_set for pair in pairs):
        lines.append(f"guidance_scale = {strength:g}   # edit strength; 1.5 to 3 where it does too little")
    wrapped = re.search(r"^\[slider\][^\n]*\n", toml, re.MULTILINE)
    at = wrapped.end() if wrapped else 0
    return toml[:at] + "".join(f"{line}\n" for line in lines) + toml[at:]


def job_text(job: JobConfig, said: Mapping[str, object], again: str = AGAIN) -> str:
    """The job as commented YAML: what its family has by default, and what is ``said`` besides, by dotted option.

    ``again`` is the command that runs it, of which ``{file}`` is its path.
    """
    options: dict[str, object] = {"training_seed": job.training_seed, "model.name_or_path": job.model.name_or_path}
    for dotted in (
        "network.linear", "network.linear_alpha", "train.steps", "train.lr", "leco.max_denoising_steps",
        "leco.denoise_guidance_scale", "leco.pairs_per_step",
    ):  # fmt: skip
        section, _, name = dotted.partition(".")
        options[dotted] = getattr(getattr(job, section), name)
    options |= said
    sections: dict[str, dict[str, object]] = {}
    for dotted, value in options.items():
        section, _, name = dotted.rpartition(".")
        sections.setdefault(section, {})[name] = value
    sections.setdefault("leco", {})["prompts_file"] = f"{job.name}.toml"
    where = "output_dir" if job.output_dir else "training_folder"
    folder = (job.output_dir or job.training_folder).as_posix()
    lines = ["job: extension", "config:", f"  name: {_scalar(job.name)}", "  process:", "    - type: leco"]
    relative = "" if Path(folder).is_absolute() else "   # relative to where the command runs"
    lines.append(f"      {where}: {_scalar(folder)}{relative}")
    lines += [f"      {name}: {_scalar(value)}" for name, value in sections.pop("", {}).items() if name not in _PLACE]
    for section, values in sections.items():
        lines.append(f"      {section}:")
        lines += [f"        {name}: {_scalar(value)}{_comment(name)}" for name, value in values.items()]
    file = shlex.quote(str(job.output_folder / f"{job.name}.yaml"))
    text = "\n".join([f"# Run again or changed: {again.format(file=file)}", *lines, ""])
    return with_schema_line("job", text)


def write_beside(job: JobConfig, toml: str, other: str, suffix: str = ".yaml") -> list[Path]:
    """Write prompts, and a job or a host's config, into the run's folder; gives their paths, the prompts' last.

    Raises ConfigError where other files of these names are there, which are left as they are.
    """
    path = job.output_folder / f"{job.name}{suffix}"
    files = {path: other, path.with_suffix(".toml"): with_schema_line("prompts", toml)}
    try:
        changed = [each for each, text in files.items() if each.exists() and _differ(each.read_text("utf-8"), text)]
        if changed and not job.save.overwrite:
            fix = "choose another --name" + (f"; leco train {path} runs what is there" if path.exists() else "")
            raise ConfigError(f"{changed[0]} is there already, and says something else", fix=fix)
        for each, text in files.items():
            write_atomically(each, text.encode())
    except OSError as error:
        message = f"cannot write to {path.parent}: {error.strerror}"
        raise ConfigError(message, fix="choose another folder") from None
    return list(files)


@contextmanager
def written_job(options: argparse.Namespace, overrides: Mapping[str, object]) -> Iterator[Path]:
    """Block that trains the job that a prompt file or words on the command line mean; gives its path.

    Raises ConfigError, and writes nothing, where it cannot be run. A run that is refused before its first step leaves
    no job behind: with another model, the same words would be refused for it.
    """
    job, toml = meant(options, overrides)
    said = {name: value for name, value in overrides.items() if name not in OF_THIS_RUN}
    places = [job.output_folder / f"{job.name}{suffix}" for suffix in (".yaml", ".toml")]
    new = [path for path in places if not path.exists()]
    try:
        yield write_beside(job, toml, job_text(job, {**said, "training_seed": job.training_seed}))[0]
    except LecoError:
        if not history_path(job.output_folder, job.name).exists():
            for path in new:
                path.unlink(missing_ok=True)
        raise


def _differ(one: str, other: str) -> bool:
    return without_schema_line(one) != without_schema_line(other)


def meant(options: argparse.Namespace, overrides: Mapping[str, object]) -> tuple[JobConfig, str]:
    """The job with its family's defaults, and its prompt file with those of the prompts; ConfigError as above."""
    words = None if options.jobs else words_of(options)
    if not options.model:
        raise ConfigError("a prompt file or words name no model", fix="add --model MODEL, such as --model builtin:tiny")
    source = options.jobs[0] if options.jobs else Path("words.toml")
    if source.suffix.lower() != ".toml":
        raise ConfigError(f"{source} is no TOML file", fix=f"leco convert {source} makes one of it")
    toml = without_schema_line(read_text(source)) if words is None else words.toml()
    name = options.name or (source.stem if words is None else words.name)
    process: dict[str, object] = {
        "type": "leco",
        "training_seed": SEED,
        "model": {"name_or_path": options.model},
        "leco": toml_file.parse(toml, source)[0],
    }
    tree = {"job": "extension", "config": {"name": name, "process": [process]}}
    if files := _FILES & _keys(process["leco"]):
        raise ConfigError(f"{source} names another file with {min(files)}", fix="write its lines as neutrals = [...]")
    try:
        loaded = build_job(Document(source, tree, {}, toml), overrides)
    except ConfigError as error:
        raise error if words is None else ConfigError([_by_flag(each, source) for each in error.problems]) from None
    refuse_nothing(loaded.job.pairs)
    job = settle(loaded.job, fetch=True).job
    return job, pinned(toml, job.pairs)


def _by_flag(problem: Problem, source: Path) -> Problem:
    """A problem of words that stand in no file, at the flag that they are from."""
    if problem.where is None or problem.where.file != source:
        return problem
    key = problem.where.key
    return replace(problem, where=Where(None, key=_FLAGS.get(key.removeprefix("config.process[0]."), key)))


def words_of(options: argparse.Namespace) -> Words:
    """What ``options`` ask for; ConfigError for what does not go together."""
    preserve = tuple(options.preserve)
    if options.erase:
        if options.positive or options.negative:
            raise ConfigError("--erase goes with --target alone", fix="leave --positive and --negative out")
        return Words(options.target or options.erase, options.erase, action="erase", preserve=preserve)
    if not options.target or not options.positive:
        raise ConfigError("a slider needs --target and --positive", fix="and --negative for its other end")
    return Words(options.target, options.positive, options.negative or "", preserve=preserve)


def _keys(tree: object) -> set[str]:
    """Every key in a prompt file, at the top, in [slider] and in the entries."""
    if isinstance(tree, dict):
        return set(tree).union(*map(_keys, tree.values()))
    return set().union(*map(_keys, tree)) if isinstance(tree, list) else set()


def _scalar(value: object) -> str:
    # JSON's texts, numbers and lists are YAML's
    return json.dumps(value, ensure_ascii=False)


def _comment(name: str) -> str:
    return f"   # {_OF_JOB[name]}" if name in _OF_JOB else ""
