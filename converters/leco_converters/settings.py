"""What a source says: its prompts, and the settings of its run under the names that they have here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from leco_converters.foreign import ARCHITECTURES, LECO, TABLE, Row
from leco_converters.report import Report
from leco_converters.tree import Node, Source, comments, plain
from leco_plugin.config.blame import read_model
from leco_plugin.config.families import FLOW_FAMILIES, FlowFamily, family_of_arch
from leco_plugin.config.findings import Findings, did_you_mean, key_text
from leco_plugin.config.sample import SamplePrompt
from leco_plugin.config.schema import JobConfig
from leco_plugin.config.sd_scripts import literal

SECTIONS: Mapping[str, type[BaseModel]] = {
    name: kind.annotation
    for name, kind in JobConfig.model_fields.items()
    if isinstance(kind.annotation, type) and issubclass(kind.annotation, BaseModel)
}
"""The sections of our jobs that hold settings."""
_SINGLE = frozenset(JobConfig.model_fields) - {"pairs", "meta", *SECTIONS}
Origin = Literal["ai-toolkit", "leco-config", "leco-job", "prompts"]
_NOT_FOR_FLOW = ("train.noise_scheduler", "sample.sampler", "network.conv", "network.conv_alpha")
"""Flow models have one sampler, and no convolutions."""


@dataclass
class Settings:
    """What a source says about its run."""

    values: dict[str, Node] = field(default_factory=dict)
    """By option of a job, such as ``train.steps``, in the order of the source."""
    tables: dict[str, Node] = field(default_factory=dict)
    """The sections as the source has them, for their comments; "" is the process, and "config" what it stands in."""
    report: Report = field(default_factory=lambda: Report(Path()))
    """What became of them in a job, and what is left out of it."""
    meta: Node | None = None
    family: FlowFamily | None = None
    untrained: Node | None = None
    """What names a family that cannot be trained here."""

    def asks(self, section: Node) -> bool:
        """Whether anything in a section of the source asks for something."""
        said = key_text(section.key)
        lost = [note.where.key for note in self.report.notes if note.kind == "lost"]
        return any(key == said or key.startswith((f"{said}.", f"{said}["))
                   for key in (*lost, *(key_text(node.key) for node in self.values.values())))  # fmt: skip


@dataclass
class Plan:
    """What the source says: its prompts, and the settings of its run."""

    origin: Origin
    source: Source
    prompts: Node
    """A prompt tree as a prompt TOML holds it."""
    prompt_source: Source
    """The file that the prompts stand in."""
    report: Report
    settings: Settings = field(default_factory=Settings)
    rows: Mapping[str, Row] = field(default_factory=dict)
    """The table of the source's settings, where they are another trainer's."""
    name: str = ""
    """What the job is called."""


def own_settings(config: Node, process: Node) -> Settings:
    """Take the settings of a job of ours, as they are."""
    settings = Settings(tables={"": process, "config": config})
    for name, node in {"name": config.table["name"], **process.table}.items():
        if name in SECTIONS:
            settings.tables[name] = node
            known = SECTIONS[name].model_fields
            settings.values.update({f"{name}.{key}": child for key, child in node.table.items() if key in known})
        elif name in _SINGLE:
            settings.values[name] = node
    return settings


def foreign_settings(rows: Mapping[str, Row], process: Node, config: Node | None = None, skip: str = "") -> Settings:
    """Take the settings of another trainer by the table of its keys; ``config`` is what its process stands in."""
    tables = {"": process, "config": config or Node({}), "leco": process.table.get("slider", Node({}))}
    reader = _Reader(rows, Settings(tables=tables, report=Report(process.path or Path())))
    for name in ARCHITECTURES if rows is not LECO else ():
        named = process.at("model", name)
        if named.value not in (None, False, ""):
            reader.family(name, named)
    for name, node in [*(config.table.items() if config else ()), *process.table.items()]:
        if name not in (skip, "process", "name", "type"):
            reader.take(name, node)
    if config and "name" in config.table:
        reader.settings.values["name"] = config.table["name"]
    reader.scale()
    return reader.settings


@dataclass
class _Reader:
    rows: Mapping[str, Row]
    settings: Settings
    _from: dict[str, str] = field(default_factory=dict)
    """Which setting of the source an option was taken from."""

    @property
    def report(self) -> Report:
        return self.settings.report

    def take(self, name: str, node: Node) -> None:
        """Take one setting or section of the source; an empty section is none."""
        nested = any(key.startswith(f"{name}.") for key in self.rows)
        row = self.rows.get(name) or (Row(to=name) if _is_ours(name) else None)
        if nested and isinstance(node.value, dict):
            self.settings.tables[name] = node
            for key, child in node.table.items():
                self.take(f"{name}.{key}", child)
        elif row is None and not (nested and node.value is None) and name.removeprefix("model.") not in ARCHITECTURES:
            guess = did_you_mean(name, [key for key in self.rows if key.count(".") == name.count(".")])
            hint = f" (did you mean {guess}?)" if guess.rpartition(".")[0] == name.rpartition(".")[0] and guess else ""
            self.report.leave(node, f"there is no such setting here{hint}")
        elif row is not None and (row.is_off(plain(node)) or self._is_idle(row)):
            self.report.left += [node] if comments(node) else []
        elif row is not None:
            self._place(name, row, node)

    def family(self, name: str, node: Node) -> None:
        """Say whether the family that a job of ai-toolkit names can be trained here."""
        arch = str(node.value) if name == "arch" else {"is_v3": "sd3"}.get(name, name.removeprefix("is_"))
        family = None if "edit" in arch else family_of_arch(arch)
        diffusion = TABLE["architectures"]["diffusion"].get(arch.partition(":")[0])
        if family:
            self.settings.family = family
            self.report.say("in_its_files", node, value=plain(node), title=family.title)
        elif diffusion is None:
            self.settings.untrained = node
        elif diffusion:
            self.settings.values[f"model.{diffusion}"] = node.like(True)
            self._from[f"model.{diffusion}"] = f"model.{name}"

    def scale(self) -> None:
        """Write out what alphas and convolutions are where that follows from others."""
        values, get = self.settings.values, self.settings.values.get
        rank, alpha = get("network.linear") or Node(4), get("network.linear_alpha")
        for name, of in (("network.linear_alpha", rank), ("network.conv_alpha", get("network.conv") or rank)):
            node = get(name)
            if node is not None and node.value == 0 and node.value is not False:
                values[name] = node.like(of.value)
                self.report.say("alpha", node)
        if self._written("sample.sample_every") in (0, False):
            # no pictures between the first and the last
            values["sample.sample_every"] = (get("train.steps") or Node(1000)).beside(plain(get("train.steps")) or 1000)
        if {"sample.samples", "sample.prompts"} <= values.keys():
            self.report.leave(values.pop("sample.prompts"), "sample.samples counts, of samples and prompts", "changed")
        if self.settings.family and _is_file(get("model.name_or_path")) and "model.extras" not in values:
            self.report.say("no_parts", values["model.name_or_path"], title=self.settings.family.title)
        if {"memory.quantize", "model.training_adapter"} <= values.keys():
            self.report.leave(values.pop("memory.quantize"), "fp8_base is what an adapter can be added to", "changed")
        elif "memory.quantize" in values:
            values.pop("memory.fp8_base", None)
        if "model.training_adapter" in values:
            self.report.say("from_hub", values["model.training_adapter"])
        if self.rows is not LECO:
            return
        method, c3lier = self.settings.tables[""].at("network", "training_method"), self._written("network.type")
        if c3lier != "c3lier" and "noxattn" in str(method.value):
            self.report.say("noxattn", method)
        if c3lier == "c3lier" and plain(get("network.layers")) in (None, "all", "full", "noxattn"):
            # one rank and alpha for linear layers and convolutions there
            values.setdefault("network.conv", rank.beside(rank.value))
            values.setdefault("network.conv_alpha", alpha.beside(alpha.value) if alpha else Node(1.0))

    def _written(self, name: str) -> object:
        return plain(self.settings.tables[""].at(*name.split(".")))

    def _is_idle(self, row: Row) -> bool:
        """Say whether a setting asks for nothing because another one does."""
        needs, _, wanted = row.needs.partition("=")
        if not needs or needs == "flow":
            return bool(needs) and self.settings.family is None
        found = self._written(needs)
        return (found != wanted if wanted else not found) or self._is_idle(self.rows.get(needs, Row()))

    def _place(self, name: str, row: Row, node: Node) -> None:
        """Put a setting where it belongs, in our words, or leave it out with the reason."""
        first = self._from.setdefault(row.to, name) if row.to in self.settings.values else name
        why = row.why
        if first != name:
            counts = min(first, name, key=lambda one: list(self.rows).index(one) if one in self.rows else -1)
            old = self.settings.values[row.to]
            if plain(node) != plain(old):
                self.report.leave(
                    node if counts == first else old, f"{counts} counts, of {first} and {name}", "changed"
                )
            if counts == first:
                return
        if row.to == "network.layers" and isinstance(node.value, str) and node.value in TABLE["methods"]:
            self._method(node, TABLE["methods"][node.value])
        elif self.settings.family and row.to in _NOT_FOR_FLOW:
            return
        elif row.to:
            result, why = self._in_our_words(row, node)
            if not why:
                self.settings.values[row.to] = result
                self._from[row.to] = name
        if why:
            self.report.leave(node, why)

    def _method(self, node: Node, options: Mapping[str, Any]) -> None:
        for option, value in options.items():
            listed = isinstance(value, list)
            made = node.beside([Node(item) for item in value]) if listed else node.like(value)
            self.settings.values[f"network.{option}"] = made
        said = ", ".join(f"{option}: {value}" for option, value in options.items())
        self.report.say("method", node, value=node.value, said=said)

    def _in_our_words(self, row: Row, node: Node) -> tuple[Node, str]:
        """Return a setting as it is written here, and why it cannot be."""
        section, _, key = row.to.rpartition(".")
        model = SECTIONS.get(section, JobConfig)
        if row.to == "train.optimizer_params" and isinstance(node.value, str):
            node = _optimizer_params(node)
        if row.to in ("sample.samples", "sample.prompts") and isinstance(node.value, list):
            node = node.like([self._sample(item) for item in node.items])
        value = plain(node)
        if str(value).lower() in row.words:
            return node.like(row.words[str(value).lower()]), ""
        if key in ("linear_alpha", "conv_alpha") and value == 0 and value is not False:
            return node, ""
        why = refusal(model, key, value)
        lower = value.lower() if isinstance(value, str) else value
        return (node.like(lower), "") if why and not refusal(model, key, lower) else (node, why)

    def _sample(self, item: Node) -> Node:
        """Keep what a picture to draw can say; its other keys are lost unless they are empty."""
        kept: dict[str, Node] = {}
        for key, child in item.table.items():
            if key in SamplePrompt.model_fields and child.value is not None:
                kept[key] = child
            elif child.value not in (None, "", False, 0, 1):
                self.report.say("picture", child)
        return item.like(kept) if isinstance(item.value, dict) else item


def _is_file(node: Node | None) -> bool:
    return node is not None and Path(str(node.value)).suffix.lower() in (".safetensors", ".sft", ".ckpt", ".gguf")


def _is_ours(name: str) -> bool:
    section, _, key = name.partition(".")
    return name in _SINGLE or (section in SECTIONS and key in SECTIONS[section].model_fields)


def refusal(model: type[BaseModel], name: str, value: object) -> str:
    """Say what is wrong with one setting; empty where nothing is."""
    if name not in model.model_fields:
        return "there is no such setting here"
    findings = Findings(Path())
    read_model(model, {name: value}, (), findings)
    found = [problem for problem in findings.errors if problem.where and problem.where.key]
    return found[0].message if found else ""


def add_defaults(plan: Plan) -> None:
    """Write out what the source's trainer takes where nothing is written, and this one does not.

    Raises ConfigError for a family that cannot be trained here.
    """
    settings, rows, node = plan.settings, plan.rows, plan.settings.untrained
    if node is not None:
        families = ", ".join(family.title for family in FLOW_FAMILIES.values())
        named = node.value if isinstance(node.value, str) else str(node.key[-1])
        message = f"{named} is no family that is trained here; there are Stable Diffusion 1 and 2, SDXL, {families}"
        fix = "train it where the job is from, or convert its prompts alone, without --job and --flags"
        raise node.refuse(message, fix)
    defaults = {row.to: (name, row.default) for name, row in rows.items() if row.default is not None}
    conv = settings.values.get("network.conv")
    if conv is not None and "network.conv_alpha" in rows:
        defaults["network.conv_alpha"] = ("network.conv_alpha", conv.value)
    if settings.values.keys().isdisjoint(("sample.prompts", "sample.samples")):
        defaults.pop("sample.sampler", None)
    lost = {node.key for node in settings.report.left}
    for option, (name, value) in defaults.items():
        written = option in settings.values or any(key_text(key).endswith(name) for key in lost)
        if not written and not (settings.family and option in _NOT_FOR_FLOW):
            settings.values[option] = Node(value)
            table = settings.tables.get(name.partition(".")[0], settings.tables[""])
            plan.report.say("default", table, name=name, value=value)


def _optimizer_params(node: Node) -> Node:
    """Read ``weight_decay=0.1 betas=0.9,0.99`` as LECO does, which takes each value for one of Python's."""
    params: dict[str, Node] = {}
    for word in str(node.value).split():
        name, equals, text = word.partition("=")
        value = literal(text)
        if not equals:
            return node
        listed = [node.beside(item) for item in value] if isinstance(value, (tuple, list)) else value
        params[name] = node.beside(listed)
    return node.like(params)
