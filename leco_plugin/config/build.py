"""Files to checked settings: `load_job`, `load_prompts`, and `load` for either."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from leco_plugin.config import toml_file, yaml_file
from leco_plugin.config.blame import check_texts, read_model
from leco_plugin.config.files import TEXT_FORMATS, Document, read_document
from leco_plugin.config.findings import Findings, Key, describe, did_you_mean, in_file_order, shorten
from leco_plugin.config.idle import refuse_nothing
from leco_plugin.config.prompt_keys import ROOT_KEYS
from leco_plugin.config.prompts import Prompts, check_preserve, read_prompts
from leco_plugin.config.recognise import Kind, expect, recognise_tree
from leco_plugin.config.schema import JobConfig, LecoConfig, PromptPair
from leco_plugin.config.window_keys import drop_window_keys
from leco_plugin.errors import ConfigError, Problem, Where

_OPTIONS = frozenset(LecoConfig.model_fields) | {"prompts_file"}
_ON_CONFIG = frozenset({"name", "pairs", "meta"})
_OF_PROCESS = frozenset(JobConfig.model_fields) - _ON_CONFIG
_PROCESS: Key = ("config", "process", 0)
_HEAD = "start with 'job: extension', then 'config:' with name and process"
_PROCESS_FIX = "write 'process:' and below it '- type: leco'"
_LECO_FIX = "write 'leco:' and below it 'prompts_file: prompts.toml'"
Result = TypeVar("Result")
_PLACEHOLDER = (PromptPair(target="", positive=""),)
"""Stands for prompts that could not be read, which is reported already."""


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
    document = _read(path, Kind.JOB, Kind.PROMPTS)
    is_job = recognise_tree(document.path, document.tree).kind is Kind.JOB
    return build_job(document) if is_job else build_prompts(document)


def load_job(path: str | Path, overrides: Mapping[str, object] | None = None) -> Loaded:
    """Read a job file; raises ConfigError with everything that is wrong in it and in its prompt file.

    ``overrides`` replaces single values by dotted key, as in ``{"train.steps": 10, "name": "other"}``.
    """
    return build_job(_read(path, Kind.JOB), overrides)


def load_prompts(path: str | Path) -> LoadedPrompts:
    """Read a prompt file of either format; raises ConfigError with everything that is wrong in it."""
    return build_prompts(_read(path, Kind.PROMPTS))


def _read(path: str | Path, *kinds: Kind) -> Document:
    """Read a settings file; what is none, such as a LoRA or a folder with a model, is refused by its name."""
    path = Path(path)
    if path.suffix.lower() not in TEXT_FORMATS or os.path.isdir(path):
        expect(path, *kinds)
    return read_document(path)


def parse_overrides(arguments: Sequence[str]) -> dict[str, object]:
    """Turn ``["train.lr=1e-4"]`` into ``{"train.lr": 0.0001}``; raises ConfigError where there is no ``=``."""
    overrides: dict[str, object] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"'{argument}' sets nothing", fix="write KEY=VALUE, for example train.steps=100")
        try:
            overrides[key.strip()] = yaml_file.scalar(text.strip())
        except ValueError:
            raise ConfigError(f"{key.strip()}: this number has too many digits", fix="write a smaller number") from None
    return overrides


def build_prompts(document: Document) -> LoadedPrompts:
    """Check the tree of a prompt file; raises ConfigError with everything that is wrong in it."""
    findings = document.findings()
    found = recognise_tree(document.path, document.tree)
    if found.kind is Kind.JOB:
        findings.error((), "this is a job, not a prompt file", "give the file that its prompts_file names")
        findings.raise_errors()
    found.expected(Kind.PROMPTS)
    check_texts(document.tree, (), findings)
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
    builder = _Builder(document, document.findings())
    job = builder.job(copy.deepcopy(document.tree), overrides or {})
    return Loaded(document.path, builder.sound(job), builder.warnings)


def build_section(document: Document, process: int) -> LoadedSection:
    """Check only the `leco` section of the process with this number, for a host that reads the rest of its jobs itself.

    Raises ConfigError with everything that is wrong in it and in its prompt file.
    """
    builder = _Builder(document, document.findings())
    tree: Any = document.tree
    section = builder.section(tree["config"]["process"][process]["leco"], ("config", "process", process, "leco"))
    found = replace(builder.sound(section), warnings=builder.warnings)
    refuse_nothing(found.pairs)
    return found


def join_section(loaded: LoadedPrompts, leco: LecoConfig) -> LoadedSection:
    """A prompt file with options from elsewhere, as one section; ConfigError where they contradict each other."""
    findings = Findings(loaded.path)
    preserve = tuple(dict.fromkeys((*leco.preserve, *loaded.preserve)))
    check_preserve(loaded.pairs, leco.preserve, ("preserve",), findings)
    findings.raise_errors()
    # what is said nowhere stays open
    whole = leco.model_copy(update={"preserve": preserve}) if preserve else leco
    return LoadedSection(whole, loaded.pairs, loaded.warnings)


@dataclass
class _Builder:
    """Reads one job; what is wrong goes to ``findings``, or for the prompt file to ``prompt_errors``."""

    document: Document
    findings: Findings
    prompt_errors: list[Problem] = field(default_factory=list)
    prompt_warnings: list[Problem] = field(default_factory=list)

    def job(self, root: object, overrides: Mapping[str, object]) -> JobConfig | None:
        """The whole job, from a tree that is changed."""
        frame = self._frame(root)
        if frame is None:
            return None
        config, process = frame
        self._override(config, process, overrides)
        model = process.get("model")
        if isinstance(model, dict) and "arch" in model:
            # what else is that host's would be called unknown, key by key
            fix = "leco check --host ai-toolkit JOB, and then leco host run ai-toolkit JOB"
            self.findings.error((*_PROCESS, "model", "arch"), "is a key of ai-toolkit, which this job is for", fix)
            return None
        check_texts(root, (), self.findings)
        drop_window_keys(process, _PROCESS, self.findings)
        self._check_keys(process, _PROCESS, _OF_PROCESS | {"type"})
        if "leco" not in process:
            self.findings.error(_PROCESS, "leco is missing", _LECO_FIX)
        if "name" not in config:
            self.findings.error(("config",), "name is missing", "add 'name:'")
        self.findings.places[(*_PROCESS, "name")] = self.findings.where(("config", "name"))
        prompts, leco = self._prompts(process.get("leco", {"target": ""}), (*_PROCESS, "leco"))
        settings = {name: value for name, value in process.items() if name in _OF_PROCESS}
        settings |= {"name": config.get("name", "name"), "meta": self._meta(root), "leco": leco}
        job = read_model(JobConfig, {**settings, "pairs": prompts.pairs or _PLACEHOLDER}, _PROCESS, self.findings)
        if job is None:
            return None
        return job.model_copy(update={"leco": self._with_preserved(job.leco, prompts, (*_PROCESS, "leco"))})

    def section(self, section: object, key: Key) -> LoadedSection | None:
        """The `leco` section alone."""
        check_texts(section, key, self.findings)
        prompts, options = self._prompts(section, key)
        leco = read_model(LecoConfig, options, key, self.findings)
        return LoadedSection(self._with_preserved(leco, prompts, key), prompts.pairs) if leco else None

    def sound(self, result: Result | None) -> Result:
        """What was read; raises ConfigError with everything that was wrong."""
        errors = [*in_file_order(self.findings.errors), *self.prompt_errors]
        if errors or result is None:
            raise ConfigError(errors)
        return result

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is odd, the job's first."""
        return (*in_file_order(self.findings.warnings), *self.prompt_warnings)

    def _frame(self, root: object) -> tuple[dict[str, object], dict[str, object]] | None:
        """The table `config` and the one process in it."""
        if not isinstance(root, dict) or "config" not in root:
            self.findings.error((), "config is missing", _HEAD)
            return None
        self._check_keys(root, (), {"job", "config", "meta"})
        if root.get("job") != "extension":
            self.findings.error(("job",), "a LECO job is an extension job", "write 'job: extension'")
        config = self._table(root["config"], ("config",), _HEAD)
        if config is None:
            return None
        misplaced = config.keys() & _OF_PROCESS
        for name in misplaced:
            self.findings.error(("config", name), "belongs to the process", "move it to where 'type: leco' is")
        self._check_keys(config, ("config",), {"name", "process", *misplaced})
        process = self._process(config)
        return None if process is None else (config, process)

    def _process(self, config: Mapping[str, object]) -> dict[str, object] | None:
        items, key = config.get("process"), _PROCESS[:-1]
        if not isinstance(items, list) or not items:
            found = "is missing" if "process" not in config else f"must be a list, not {describe(items)}"
            self.findings.error(key, "the list is empty" if items == [] else found, _PROCESS_FIX)
            return None
        if len(items) > 1:
            self.findings.error((*key, 1), "a job runs one process", "write one job file per process")
            return None
        process = self._table(items[0], _PROCESS, _PROCESS_FIX)
        if process is not None and process.get("type") != "leco":
            written = "is missing" if "type" not in process else f"must be leco, not {describe(process['type'])}"
            self.findings.error((*_PROCESS, "type"), written, "write 'type: leco'")
            return None
        return process

    def _table(self, value: object, key: Key, fix: str) -> dict[str, object] | None:
        if isinstance(value, dict):
            return value
        self.findings.error(key, f"must be a table, not {describe(value)}", fix)
        return None

    def _override(self, config: dict[str, object], process: dict[str, object], values: Mapping[str, object]) -> None:
        for dotted, value in values.items():
            names = dotted.split(".")
            table, place = (config, ("config", *names)) if names == ["name"] else (process, (*_PROCESS, *names))
            for name in names[:-1]:
                below = table.get(name)
                table[name] = table = below if isinstance(below, dict) else {}
            table[names[-1]] = copy.deepcopy(value)
            self.findings.places[place] = Where(None, None, f"--set {dotted}")

    def _prompts(self, section: object, key: Key) -> tuple[Prompts, dict[str, object]]:
        """The prompts of a `leco` section, and its options."""
        table = {} if section is None else self._table(section, key, _LECO_FIX)
        if table is None:
            return Prompts(), {}
        options = {name: value for name, value in table.items() if name in LecoConfig.model_fields}
        inline = {name: value for name, value in table.items() if name not in _OPTIONS}
        if "prompts_file" in table:
            return self._prompts_file(table["prompts_file"], inline, key), options
        if inline:
            folder = self.document.path.parent
            return read_prompts(inline, self.findings, folder, base=key, options=_OPTIONS), options
        self.findings.error(key, "there are no prompts", "write prompts_file, or targets or prompts below leco")
        return Prompts(), options

    def _prompts_file(self, name: object, inline: Mapping[str, object], key: Key) -> Prompts:
        for extra in inline:
            if extra in ROOT_KEYS:
                self.findings.error((*key, extra), "prompts stand here and in prompts_file", "keep one of the two")
            else:
                guess = did_you_mean(extra, _OPTIONS | ROOT_KEYS)
                self.findings.unknown((*key, extra), {guess} if guess else _OPTIONS)
        key = (*key, "prompts_file")
        if not isinstance(name, str) or not name.strip():
            message = f"must be the name of a prompt file, not {describe(name)}"
            self.findings.error(key, message, "write prompts_file: prompts.toml")
            return Prompts()
        path = self.document.path.parent / name
        try:
            loaded = load_prompts(path)
        except ConfigError as error:
            # the job's key is to blame where the file as a whole is at fault, else the place in the file; os.path's
            # answer is no, too, for a name that is too long for any file
            if os.path.isfile(path):
                self.prompt_errors += error.problems
            else:
                for problem in error.problems:
                    self.findings.error(key, f"{path}: {problem.message}", problem.fix)
            return Prompts()
        self.prompt_warnings += loaded.warnings
        return Prompts(loaded.pairs, loaded.preserve)

    def _with_preserved(self, leco: LecoConfig, prompts: Prompts, key: Key) -> LecoConfig:
        """What the job and its prompts preserve adds up."""
        check_preserve(prompts.pairs, leco.preserve, (*key, "preserve"), self.findings)
        return leco.model_copy(update={"preserve": tuple(dict.fromkeys((*leco.preserve, *prompts.preserve)))})

    def _meta(self, root: object) -> dict[str, str]:
        """Take over ai-toolkit's `meta` section as text; its placeholders are not filled in."""
        meta = root.get("meta") if isinstance(root, dict) else None
        table = self._table(meta, ("meta",), "write name and version below it") if meta is not None else None
        for name, value in (table or {}).items():
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                self.findings.error(("meta", name), f"must be text, not {describe(value)}", "put it in quotes")
        return {name: shorten(value, 10_000) for name, value in (table or {}).items()}

    def _check_keys(self, table: Mapping[str, object], key: Key, known: Collection[str]) -> None:
        for name in table:
            if name not in known:
                self.findings.unknown((*key, name), known)
