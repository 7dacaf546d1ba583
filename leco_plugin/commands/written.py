"""A job and its prompts as files that can be read, changed and run again: what `leco train` leaves beside a LoRA."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leco_plugin.atomic import write_atomically
from leco_plugin.config import toml_file
from leco_plugin.config.build import build_job
from leco_plugin.config.editors import with_schema_line, without_schema_line
from leco_plugin.config.files import Document, read_text
from leco_plugin.config.idle import refuse_nothing
from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.errors import ConfigError
from leco_plugin.families.known import settle

SEED = 42
"""Of a run that is given none: written into its job, so that running that again gives the same LoRA."""
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


def job_text(job: JobConfig, said: Mapping[str, object]) -> str:
    """The job as commented YAML: what its family has by default, and what is ``said`` besides, by dotted option."""
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
    lines.append(f"      {where}: {_scalar(folder)}   # relative to where the command runs")
    lines += [f"      {name}: {_scalar(value)}" for name, value in sections.pop("", {}).items() if name not in _PLACE]
    for section, values in sections.items():
        lines.append(f"      {section}:")
        lines += [f"        {name}: {_scalar(value)}{_comment(name)}" for name, value in values.items()]
    return "\n".join(["# Run again or changed: leco train FILE --set name=another", *lines, ""])


def write_beside(job: JobConfig, toml: str, said: Mapping[str, object]) -> Path:
    """Write job and prompts into the run's folder; gives the job's path.

    Raises ConfigError where other files of these names are there, which are left as they are.
    """
    folder = job.output_folder
    prompts, written = with_schema_line("prompts", toml), with_schema_line("job", job_text(job, said))
    files = {folder / f"{job.name}.toml": prompts, folder / f"{job.name}.yaml": written}
    fix = f"leco train {folder / job.name}.yaml runs it; or choose another --name"
    write_files(files, fix, overwrite=job.save.overwrite)
    return folder / f"{job.name}.yaml"


def write_files(files: Mapping[Path, str], fix: str, *, overwrite: bool = False) -> None:
    """Write texts to files of one folder; ConfigError with ``fix`` where others are there, which stay as they are."""
    try:
        other = [path for path, text in files.items() if path.exists() and _differ(path.read_text("utf-8"), text)]
        if other and not overwrite:
            raise ConfigError(f"{other[0]} is there already, and says something else", fix=fix)
        for path, text in files.items():
            write_atomically(path, text.encode())
    except OSError as error:
        folder = next(iter(files)).parent
        raise ConfigError(f"cannot write to {folder}: {error.strerror}", fix="choose another folder") from None


def _differ(one: str, other: str) -> bool:
    return without_schema_line(one) != without_schema_line(other)


def write_job(options: argparse.Namespace, overrides: Mapping[str, object]) -> Path:
    """Write the job that a prompt file or words on the command line mean; gives its path.

    Raises ConfigError, and writes nothing, where it cannot be run.
    """
    job, toml = meant(options, overrides)
    said = {name: value for name, value in overrides.items() if name not in OF_THIS_RUN}
    return write_beside(job, toml, {**said, "training_seed": job.training_seed})


def meant(options: argparse.Namespace, overrides: Mapping[str, object]) -> tuple[JobConfig, str]:
    """The job with its family's defaults, and its prompt file with those of the prompts; ConfigError as above."""
    words = None if options.jobs else words_of(options)
    if options.model is None:
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
    loaded = build_job(Document(source, tree, {}, toml), overrides)
    refuse_nothing(loaded.job.pairs)
    job = settle(loaded.job, fetch=True).job
    return job, pinned(toml, job.pairs)


def words_of(options: argparse.Namespace) -> Words:
    """What ``options`` ask for; ConfigError for what does not go together."""
    preserve = tuple(options.preserve)
    if options.erase:
        if options.positive or options.negative:
            raise ConfigError("--erase goes with --target alone", fix="leave --positive and --negative out")
        return Words(options.target or options.erase, options.erase, action="erase", preserve=preserve)
    if not options.target or not options.positive:
        raise ConfigError("a slider needs --target and --positive", fix="and --negative for its other end")
    return Words(options.target, options.positive, options.negative, preserve=preserve)


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
