"""Prompts and settings of any source to a job: of the process `leco`, or of ai-toolkit's own `slider`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from leco_converters.foreign import SLIDER, TABLE
from leco_converters.model import Settled, host_model
from leco_converters.prompt_tables import TABLES, anchors_of, top
from leco_converters.report import LEFT_OUT, Report
from leco_converters.settings import SECTIONS, Plan, Settings
from leco_converters.tree import Node, comments, plain
from leco_plugin.config.families import FLOW_FAMILIES
from leco_plugin.config.findings import Findings
from leco_plugin.config.prompt_keys import NEUTRAL_LISTS
from leco_plugin.config.schema import JobConfig
from leco_plugin.config.sliders import is_blank
from leco_plugin.config.values import Values, read_values

WRITTEN = (
    "training_folder", "network.type", "network.linear", "network.linear_alpha", "train.steps", "train.lr",
    "train.optimizer", "train.lr_scheduler", "train.noise_scheduler", "train.dtype", "train.gradient_checkpointing",
    "save.dtype",
)  # fmt: skip
"""Settings that are written out where the source has none, since ai-toolkit's defaults are others."""


def default_of(option: str, job: JobConfig | None = None) -> object:
    """Our default of an option, as a file says it, or what ``job`` has there; None where there is no such option."""
    section, _, key = option.rpartition(".")
    if job is not None and section in SECTIONS:
        return getattr(getattr(job, section), key, None)
    field = SECTIONS.get(section, JobConfig).model_fields.get(key)
    return "output" if option == "training_folder" else field and field.default


def process_of(plan: Plan, kind: Node, values: dict[str, Node]) -> dict[str, Node]:
    """A process with these settings by option, each section with the comments that the source has there."""
    process = {"type": kind}
    for option, node in values.items():
        section, _, key = option.rpartition(".")
        if section:
            process.setdefault(section, plan.settings.tables.get(section, Node({})).like({})).table[key] = node
        else:
            process[option] = node
    return process


def leco_job(plan: Plan, model: Settled, prompts: Node) -> tuple[Node, list[Node]]:
    """Return the job, and what is left out of it.

    ``prompts`` is a table for its `leco` section: ``prompts_file``, or the prompts themselves.
    """
    values, tables, empty = dict(plan.settings.values), plan.settings.tables, Node({})
    if not tables:
        values = {option: Node(default_of(option, model.job)) for option in WRITTEN}
    base = model.job.model.name_or_path
    if not base and "prompts_file" not in prompts.table:
        # so that the job can be run
        base = "builtin:tiny"
        plan.report.say("no_model", plan.source.root, model=base)
    if base and "model.name_or_path" not in values:
        values = {"model.name_or_path": Node(base), **values}
    old, config, named = (tables.get(key, empty) for key in ("", "config", "prompts_file"))
    lines = {"name": values.pop("name", Node(plan.name))}
    process = process_of(plan, old.table.get("type", empty).like("leco"), values)
    leco = process.pop("leco", tables.get("leco", empty).like({}))
    leco.table.update({key: named.like(node.value) if key == "prompts_file" else node
                       for key, node in prompts.table.items()})  # fmt: skip
    lines["process"] = config.table.get("process", empty).like([old.like({**process, "leco": leco})])
    root = plan.source.root.table if plan.origin in ("ai-toolkit", "leco-job") else {}
    job = {"job": root.get("job", Node("")).like("extension"), "config": config.like(lines)}
    sections = [node for key, node in root.items() if key not in ("job", "config", "meta")]
    left = [(node, "there is no such section here") for node in sections]
    if "meta" in root:
        meta = root["meta"].table
        kept = {key: node for key, node in meta.items() if type(node.value) in (str, int, float)}
        left += [(node, "only texts and numbers can stand here") for key, node in meta.items() if key not in kept]
        job["meta"] = root["meta"].like(kept)
    for node, why in left:
        plan.report.note("lost", node, why, LEFT_OUT)
    return Node(job), [*plan.settings.report.left, *(node for node, _ in left)]


_NAMES: Mapping[str, str] = {row.to: name for name, row in reversed(list(SLIDER.items())) if row.to}
"""What our options are called there."""
_SWITCHES = ("memory.attention", "logging.log_with", "memory.offload", "memory.quantize")
"""Options of which not every value is there."""
_SPELLED: Mapping[str, Mapping[object, object]] = {
    **{row.to: {ours: theirs == "true" or theirs for theirs, ours in row.words.items()}
       for row in SLIDER.values() if row.words and row.to != "network.type"},
    "logging.log_with": {"wandb": True, "all": True},
    "memory.attention": {"xformers": True},
}  # fmt: skip


def slider_job(plan: Plan, model: Settled) -> tuple[Node, list[Node]]:
    """Return the job, and what is left out of it; what it cannot say goes to the plan's report."""
    report, settings = plan.report, plan.settings
    targets = _Targets(plan.prompts, model, report)
    preserve = top(plan.prompts).table.get("preserve")
    anchors = {} if preserve is None else {"anchors": anchors_of(preserve, report)}
    left: list[Node] = list(settings.report.left)
    values = _values(settings, model, report, left)
    values |= host_model(plan, model, targets.sizes, targets.varies_crops)
    report.say("stops", plan.source.root)
    config = {"name": Node(plan.name), "training_folder": values.pop("training_folder"), "device": Node("cuda:0")}
    config |= {key: values.pop(key) for key in ("name", "device") if key in values}
    if plain(config["device"]) == "auto":
        report.say("no_auto", config["device"])
        config["device"] = config["device"].like("cuda:0")
    values["train.batch_size"] = Node(targets.batch_size)
    process = process_of(plan, Node("slider"), values)
    resolutions = Node([Node([Node(height), Node(width)]) for height, width in targets.sizes])
    process["slider"] = Node({"resolutions": resolutions, **anchors, "targets": targets.listed})
    _note_traps(targets, anchors, plain(config["name"]), plain(values["train.steps"]), report)
    old, root = settings.tables.get("", Node({})), plan.source.root.table
    config["process"] = settings.tables.get("config", Node({})).table.get("process", old).like([old.like(process)])
    meta = {"meta": settings.meta} if settings.meta else {}
    return Node({"job": root.get("job", Node("")).like("train"), "config": Node(config), **meta}), left


def _values(settings: Settings, model: Settled, report: Report, left: list[Node]) -> dict[str, Node]:
    """Return the settings by ai-toolkit's names: our defaults, and over them what the source says."""
    result = {option: Node(default_of(option, model.job)) for option in WRITTEN}
    result["train.max_denoising_steps"] = Node(model.job.leco.max_denoising_steps)
    if model.family in FLOW_FAMILIES and not settings.values.keys().isdisjoint(("sample.prompts", "sample.samples")):
        result["sample.sampler"] = Node(model.job.sample.sampler)
    walk = model.job.leco.denoise_guidance_scale
    if walk != default_of("leco.denoise_guidance_scale") and "leco.denoise_guidance_scale" not in settings.values:
        report.say("walk_here", settings.values.get("model.name_or_path") or Node(None), value=walk)
    result |= {"train.train_unet": Node(True), "train.train_text_encoder": Node(False)}
    for option, node in settings.values.items():
        name, value = _NAMES.get(option, ""), plain(node)
        spelled = _SPELLED.get(option, {}).get(value if isinstance(value, str) else "")
        if name and (spelled is not None or option not in _SWITCHES):
            result[name] = node if spelled is None else node.like(spelled)
            if name == "model.qtype":
                result["model.quantize"] = node.beside(True)
        elif value != default_of(option):
            walks = option == "leco.denoise_guidance_scale"
            none = f"the slider trainer has no {option.rpartition('.')[2]}"
            report.say("no_option", node, why=f"{value}, but the trainer always walks at 3" if walks else none)
            left.append(node)
    return result


def _note_traps(targets: _Targets, anchors: Mapping[str, Node], name: object, steps: object, report: Report) -> None:
    """Report what ai-toolkit would do to the job without a word."""
    if isinstance(steps, int) and len(targets.listed.items) > steps:
        report.say("dropped", targets.listed, steps=steps)
    for item in (*(item for one in anchors.values() for item in one.items), *targets.listed.items):
        for key, node in item.table.items():
            if key not in ("multiplier", "weight") and "[name]" in str(node.value) and name != "[name]":
                report.say("name_there", node)


class _Targets:
    """The targets of a slider, and what they share; what they cannot say goes to the report."""

    def __init__(self, prompts: Node, model: Settled, report: Report) -> None:
        """Raises ConfigError where no prompt can be a target."""
        self._root, self._model, self._report = top(prompts), model, report
        self._top = _read(self._root)
        name = next((name for name in TABLES if name in self._root.table), None)
        self._in_prompts, self._old = name == "prompts", self._root.at(name) if name else Node([self._root])
        self.sizes: list[tuple[int, int]] = []
        self.batch_size, self.varies_crops = 1, False
        items = [item for entry in self._old.items for item in self._target(entry)]
        if not items:
            place = self._old if name else self._root
            raise place.refuse("no prompt here can be a slider of ai-toolkit", "use --to leco-job")
        own = self._comments(self._root, {*TABLES, "preserve"}) if name else []
        self.listed = Node(items, before=[*self._old.before, *own], after=self._old.after)

    def _target(self, entry: Node) -> list[Node]:
        """Return the target that an entry becomes; none where it has no concept."""
        values = _read(entry).over(self._top)
        # a list of targets is what its first entry is
        is_prompt = "target_class" not in entry.table if self._in_prompts else "target" in self._old.items[0].table
        concept = (values.target if values.positive is None else values.positive) or ""
        if is_prompt and is_blank(concept) and is_blank(values.unconditional):
            self._report.leave(entry, "positive and unconditional are both empty, which a slider cannot be")
            return []
        self._note_lost(entry, values, is_prompt)
        if is_prompt:
            self._report.say("one_direction", entry, action=values.action or "erase")
            table = self._prompt(entry, values, concept)
        else:
            texts = {name: getattr(values, name) or "" for name in ("target_class", "positive", "negative")}
            table = {name: entry.table.get(name, Node(text)) for name, text in texts.items()}
        given = {name: getattr(values, name) for name in ("multiplier", "weight")}
        table |= {name: entry.table.get(name, Node(value)) for name, value in given.items() if value is not None}
        self._share(entry, values, is_prompt)
        placed = {*table, *TABLES, "preserve", *(("target", "unconditional") if is_prompt else ())}
        return [replace(entry, value=table, before=[*entry.before, *self._comments(entry, placed)])]

    def _comments(self, table: Node, placed: Collection[str]) -> list[str]:
        """Return the comments of keys that are neither in the result nor left out as comments themselves."""
        left = {id(node) for node in self._report.left}
        return [text for name, child in table.table.items() if name not in placed and id(child) not in left
                for text in comments(child)]  # fmt: skip

    def _prompt(self, entry: Node, values: Values, concept: str) -> dict[str, Node]:
        """Say with both sides of a slider what one direction of a prompt says."""
        old = {name: entry.table.get(name, Node("")) for name in ("target", "positive", "unconditional")}
        sides = [old["positive"].like(concept), old["unconditional"].like(values.unconditional or "")]
        if values.action != "enhance":
            sides.reverse()
        return {"target_class": old["target"].like(values.target or ""), "positive": sides[0], "negative": sides[1]}

    def _note_lost(self, entry: Node, values: Values, is_prompt: bool) -> None:
        """Report what a target cannot say."""
        for name, (fixed, why) in TABLE["slider"]["fixed"].items():
            value = getattr(values, name)
            if name == "neutral" and is_prompt and value is None:
                value = values.unconditional or ""
            elif name == "neutral" and self._in_prompts and not is_prompt:
                value = _read(entry).neutral
            usual = self._model.table.get(f"pair.{name}", fixed)
            if value is not None and value != fixed:
                self._lose(entry, name, f"{value!a:.60}, but {why}")
            elif value is None and usual != fixed:
                self._report.say("strength_here", self._old, value=usual, title=self._model.title)
        for name in NEUTRAL_LISTS:
            if name in entry.table or (name in self._root.table and not self._in_prompts):
                self._lose(entry, name, "several neutrals, but the trainer always starts from the empty prompt")

    def _lose(self, entry: Node, name: str, was: str) -> None:
        node = entry.table.get(name, self._root.table.get(name))
        if node is None:
            self._report.note("lost", entry, was, "left out")
        elif not any(node is one for one in self._report.left):
            self._report.leave(node, was)

    def _share(self, entry: Node, values: Values, is_prompt: bool) -> None:
        """Collect sizes and batch sizes, which all targets share."""
        found = (None if is_prompt else values.resolutions) or values.resolution
        usual = self._model.table.get("pair.resolution", 512)
        sizes, batch = list(found.each) if found else [(usual, usual)], values.batch_size or 1
        if not self.sizes:
            self.sizes, self.batch_size = sizes, batch
        if sizes != self.sizes:
            self._report.say("own_sizes", entry)
            self.sizes += [size for size in sizes if size not in self.sizes]
        if batch != self.batch_size:
            self._report.say("own_batch", entry, batch=batch, shared=self.batch_size)
        self.varies_crops |= bool(values.dynamic_crops)


def _read(node: Node) -> Values:
    bare = {name: plain(child) for name, child in node.table.items() if name not in TABLES}
    return read_values(bare, (), Findings(Path()))
