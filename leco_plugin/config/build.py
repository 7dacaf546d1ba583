"""Files to checked settings: `load_job`, `load_prompts`, and `load` for either."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from leco_plugin.config import toml_file, yaml_file
from leco_plugin.config.blame import blame
from leco_plugin.config.files import Document, read_document
from leco_plugin.config.findings import Findings, Key, did_you_mean, in_file_order
from leco_plugin.config.prompt_keys import ROOT_KEYS
from leco_plugin.config.prompts import check_preserve, read_prompts
from leco_plugin.config.recognise import Kind, recognise_tree
from leco_plugin.config.schema import JobConfig, LecoConfig, PromptPair
from leco_plugin.config.values import describe
from leco_plugin.errors import ConfigError, Problem

_OPTIONS = frozenset(LecoConfig.model_fields) | {"prompts_file"}
_ON_CONFIG = frozenset({"name", "pairs", "meta"})
_PROCESS_KEYS = frozenset(JobConfig.model_fields) - _ON_CONFIG | {"type"}
_HEAD = "start with 'job: extension', then 'config:' with name and process"


@dataclass(frozen=True)
class LoadedPrompts:
    """A prompt file that can be trained, and what is odd about it."""

    path: Path
    pairs: tuple[PromptPair, ...]
    preserve: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """A job file that can be run, and what is odd about it."""

    path: Path
    job: JobConfig
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class LoadedSection:
    """The `leco` section of a host's job."""

    leco: LecoConfig
    pairs: tuple[PromptPair, ...]
    warnings: tuple[Problem, ...] = ()


def load(path: str | Path) -> Loaded | LoadedPrompts:
    """Read a job or a prompt file, whichever it is; raises ConfigError with everything that is wrong in it."""
    document = read_document(Path(path))
    is_job = recognise_tree(document.path, document.tree).kind is Kind.JOB
    return build_job(document) if is_job else build_prompts(document)


def load_job(path: str | Path, overrides: Mapping[str, object] | None = None) -> Loaded:
    """Read a job file; raises ConfigError with everything that is wrong in it and in its prompt file.

    ``overrides`` replaces single values by dotted key, as in ``{"train.steps": 10, "name": "other"}``.
    """
    return build_job(read_document(Path(path)), overrides)


def load_prompts(path: str | Path) -> LoadedPrompts:
    """Read a prompt file of either format; raises ConfigError with everything that is wrong in it."""
    return build_prompts(read_document(Path(path)))


def parse_overrides(arguments: Sequence[str]) -> dict[str, object]:
    """Turn ``["train.lr=1e-4"]`` into ``{"train.lr": 0.0001}``; raises ConfigError where there is no ``=``."""
    overrides: dict[str, object] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"'{argument}' sets nothing", fix="write KEY=VALUE, for example train.steps=100")
        overrides[key.strip()] = yaml_file.scalar(text.strip())
    return overrides


def build_prompts(document: Document) -> LoadedPrompts:
    """Check the tree of a prompt file; raises ConfigError with everything that is wrong in it."""
    findings = document.findings()
    found = recognise_tree(document.path, document.tree)
    if found.kind is Kind.JOB:
        findings.error((), "this is a job, not a prompt file", "give the file that its prompts_file names")
        findings.raise_errors()
    found.expected(Kind.PROMPTS)
    prompts = read_prompts(document.tree, findings, document.path.parent)
    findings.raise_errors()
    if document.path.suffix.lower() == ".toml":
        difference = toml_file.sd_scripts_reading(document.text, document.tree)
        if difference:
            findings.warn((), difference, "only matters if sd-scripts shall read this file too")
    warnings = tuple(in_file_order(findings.warnings))
    return LoadedPrompts(document.path, prompts.pairs, prompts.preserve, warnings)


def build_job(document: Document, overrides: Mapping[str, object] | None = None) -> Loaded:
    """Check the tree of a job file; raises ConfigError with everything that is wrong in it and in its prompt file."""
    recognise_tree(document.path, document.tree).expected(Kind.JOB)
    findings = document.findings()
    builder = _JobBuilder(replace(document, tree=copy.deepcopy(document.tree)), findings)
    job = builder.build(overrides or {})
    errors = [*in_file_order(findings.errors), *builder.prompt_errors]
    if errors or job is None:
        raise ConfigError(errors)
    return Loaded(document.path, job, (*in_file_order(findings.warnings), *builder.prompt_warnings))


def build_section(document: Document, process: int) -> LoadedSection:
    """Check only the `leco` section of the process with this number, for a host that reads the rest of its jobs itself.

    Raises ConfigError with everything that is wrong in it and in its prompt file.
    """
    findings = document.findings()
    builder = _JobBuilder(replace(document, tree=copy.deepcopy(document.tree)), findings)
    section = builder.build_section(process)
    errors = [*in_file_order(findings.errors), *builder.prompt_errors]
    if errors or section is None:
        raise ConfigError(errors)
    return replace(section, warnings=(*in_file_order(findings.warnings), *builder.prompt_warnings))


class _JobBuilder:
    """Reads one job; what is wrong goes to ``findings``, or for the prompt file to ``prompt_errors``."""

    def __init__(self, document: Document, findings: Findings) -> None:
        self._document = document
        self._findings = findings
        self.prompt_errors: list[Problem] = []
        self.prompt_warnings: list[Problem] = []
        self._preserved: tuple[str, ...] = ()

    def build(self, overrides: Mapping[str, object]) -> JobConfig | None:
        config = self._config()
        if config is None:
            return None
        key, process = self._process(config)
        if process is None:
            return None
        self._override(config, process, key, overrides)
        self._check_keys(process, key, _PROCESS_KEYS)
        pairs = self._prompts(process, key)
        return self._validated(config, process, key, pairs)

    def build_section(self, number: int) -> LoadedSection | None:
        """Read the `leco` section alone, in a job whose tables are known to be there."""
        key: Key = ("config", "process", number)
        process = cast(Any, self._document.tree)["config"]["process"][number]
        pairs = self._prompts(process, key)
        # what the host reads is taken as it is
        own = {"model": {"name_or_path": "host"}, "leco": process["leco"]}
        job = self._validated({"name": "host"}, own, key, pairs)
        return LoadedSection(job.leco, job.pairs) if job else None

    def _config(self) -> dict[str, object] | None:
        root = self._document.tree
        if not isinstance(root, dict) or "config" not in root:
            self._findings.error((), "config is missing", _HEAD)
            return None
        self._check_keys(root, (), frozenset({"job", "config", "meta"}))
        if root.get("job") != "extension":
            self._findings.error(("job",), "a LECO job is an extension job", "write 'job: extension'")
        config = root["config"]
        if not isinstance(config, dict):
            self._findings.error(("config",), f"must be a table, not {describe(config)}", _HEAD)
            return None
        for name in config.keys() - {"name", "process"}:
            if name in _PROCESS_KEYS:
                self._findings.error(("config", name), "belongs to the process", "move it to where 'type: leco' is")
            else:
                self._findings.unknown(("config", name), {"name", "process"})
        return config

    def _process(self, config: dict[str, object]) -> tuple[Key, dict[str, object] | None]:
        """Find the one process of the job and its key."""
        key: Key = ("config", "process")
        fix = "write 'process:' and below it '- type: leco'"
        items = config.get("process")
        if not isinstance(items, list) or not items:
            found = "is missing" if "process" not in config else f"must be a list, not {describe(items)}"
            self._findings.error(key, "the list is empty" if items == [] else found, fix)
            return key, None
        if len(items) > 1:
            self._findings.error((*key, 1), "a job runs one process", "write one job file per process")
            return key, None
        key = (*key, 0)
        process = items[0]
        if not isinstance(process, dict):
            self._findings.error(key, f"must be a table, not {describe(process)}", fix)
            return key, None
        if process.get("type") != "leco":
            written = "is missing" if "type" not in process else f"must be leco, not {describe(process['type'])}"
            self._findings.error((*key, "type"), written, "write 'type: leco'")
            return key, None
        return key, process

    def _override(
        self, config: dict[str, object], process: dict[str, object], key: Key, overrides: Mapping[str, object]
    ) -> None:
        for dotted, value in overrides.items():
            names = dotted.split(".")
            table, place = (config, ("config", *names)) if names == ["name"] else (process, (*key, *names))
            for name in names[:-1]:
                below = table.setdefault(name, {})
                table = below if isinstance(below, dict) else {}
            table[names[-1]] = copy.deepcopy(value)
            self._findings.overridden |= {place}

    def _prompts(self, process: dict[str, object], key: Key) -> tuple[PromptPair, ...]:
        """Take the prompts out of the leco section, which keeps its options only."""
        key = (*key, "leco")
        section = process.get("leco")
        if not isinstance(section, dict):
            found = f"must be a table, not {describe(section)}" if "leco" in process else "leco is missing"
            place = key if "leco" in process else key[:-1]
            self._findings.error(place, found, "write 'leco:' and below it 'prompts_file: prompts.toml'")
            process["leco"] = {}
            return ()
        process["leco"] = {name: value for name, value in section.items() if name in LecoConfig.model_fields}
        inline = {name: value for name, value in section.items() if name not in _OPTIONS}
        if "prompts_file" in section:
            return self._prompts_file(section["prompts_file"], inline, key)
        if not inline:
            fix = "write prompts_file, or targets or prompts below leco"
            self._findings.error(key, "there are no prompts", fix)
            return ()
        prompts = read_prompts(inline, self._findings, self._document.path.parent, base=key, options=_OPTIONS)
        self._preserved = prompts.preserve
        return prompts.pairs

    def _prompts_file(self, name: object, inline: Mapping[str, object], key: Key) -> tuple[PromptPair, ...]:
        for extra in inline:
            if extra in ROOT_KEYS:
                message = "prompts stand here and in prompts_file"
                self._findings.error((*key, extra), message, "keep one of the two")
            else:
                guess = did_you_mean(extra, _OPTIONS | ROOT_KEYS)
                self._findings.unknown((*key, extra), {guess} if guess else _OPTIONS)
        if not isinstance(name, str) or not name.strip():
            message = f"must be the name of a prompt file, not {describe(name)}"
            self._findings.error((*key, "prompts_file"), message, "write prompts_file: prompts.toml")
            return ()
        try:
            loaded = load_prompts(self._document.path.parent / name)
        except ConfigError as error:
            self._note_prompt_errors(error, (*key, "prompts_file"), self._document.path.parent / name)
            return ()
        self.prompt_warnings += loaded.warnings
        self._preserved = loaded.preserve
        return loaded.pairs

    def _note_prompt_errors(self, error: ConfigError, key: Key, path: Path) -> None:
        """Blame the job's key where the file as a whole is at fault, else the place in the file."""
        if path.is_file():
            self.prompt_errors += error.problems
            return
        for problem in error.problems:
            self._findings.error(key, f"{path}: {problem.message}", problem.fix)

    def _validated(
        self, config: Mapping[str, object], process: Mapping[str, object], key: Key, pairs: tuple[PromptPair, ...]
    ) -> JobConfig | None:
        settings = {name: value for name, value in process.items() if name in _PROCESS_KEYS - {"type"}}
        if "name" in config:
            settings["name"] = config["name"]
        # prompts that could not be read are reported already; the placeholder keeps pydantic from saying so again
        settings["pairs"] = pairs or (PromptPair(target="", positive=""),)
        settings["meta"] = self._meta()
        try:
            job = JobConfig.model_validate(settings)
            check_preserve(job.pairs, job.leco.preserve, (*key, "leco", "preserve"), self._findings)
            return self._with_preserved(job)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                blame(detail, ("config",) if detail["loc"][:1] == ("name",) else key, self._findings)
            return None

    def _with_preserved(self, job: JobConfig) -> JobConfig:
        """What the job and its prompts preserve adds up."""
        together = tuple(dict.fromkeys((*job.leco.preserve, *self._preserved)))
        return job.model_copy(update={"leco": job.leco.model_copy(update={"preserve": together})})

    def _meta(self) -> dict[str, str]:
        """Take over ai-toolkit's `meta` section as text; its placeholders are not filled in."""
        root = self._document.tree
        meta = root.get("meta", {}) if isinstance(root, dict) else {}
        if not isinstance(meta, dict):
            self._findings.error(("meta",), f"must be a table, not {describe(meta)}", "write name and version below it")
            return {}
        for name, value in meta.items():
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                self._findings.error(("meta", name), f"must be text, not {describe(value)}", "put it in quotes")
        return {name: str(value) for name, value in meta.items() if isinstance(value, (str, float, int))}

    def _check_keys(self, table: Mapping[str, object], key: Key, known: frozenset[str]) -> None:
        for name in table:
            if name not in known:
                self._findings.unknown((*key, name), known)
