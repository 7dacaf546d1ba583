"""Prompts and settings of any source to a `slider` job that ai-toolkit's own trainer runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from leco_converters.prompt_tables import TABLES
from leco_converters.request import Plan
from leco_converters.settings import HARMLESS, sections
from leco_converters.tree import Node, plain
from leco_plugin.config.findings import Findings
from leco_plugin.config.prompt_keys import NEUTRAL_LISTS
from leco_plugin.config.sliders import is_blank
from leco_plugin.config.values import Size, Values, read_values

SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_LEFT_OUT = "left out, kept as a comment"
_FIXED: Mapping[str, tuple[object, str]] = {
    "guidance_scale": (1.0, "the trainer fixes the edit strength at 1"),
    "neutral": ("", "the trainer always starts from the empty prompt"),
    "dynamic_resolution": (False, "the trainer draws at fixed sizes"),
    "dynamic_crops": (False, "the trainer does not vary crops"),
}
_KEPT = ("target_class", "positive", "negative", "multiplier", "weight")
_SIZES = ("resolution", "resolutions", "batch_size")
_OURS_ONLY = ("lr_warmup_steps",)


@dataclass
class _Targets:
    """The targets of the job, and what they share."""

    items: list[Node] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    left: dict[str, Node] = field(default_factory=dict)
    crops: bool = False


def slider_job(plan: Plan, name: str, model: str) -> Node:
    """Return the job; what it cannot say goes to the plan's report."""
    targets = _targets(plan)
    process = {"type": Node("slider"), **_settings(plan, targets, model)}
    resolutions = Node([Node([Node(height), Node(width)]) for height, width in targets.sizes])
    slider = {**targets.left, "resolutions": resolutions, "targets": Node(targets.items)}
    process["slider"] = Node(slider)
    old = plan.job.table["config"].table if plan.job else {}
    config = {"name": old.get("name", Node(name))}
    config["training_folder"] = _of_process(plan, "training_folder") or old.get("training_folder") or Node("output")
    config["device"] = _device(plan, _of_process(plan, "device") or old.get("device"))
    seed = _of_process(plan, "training_seed")
    if seed is not None:
        process["training_seed"] = seed
    config["process"] = Node([Node(process)])
    root = {"job": Node("train"), "config": Node(config)}
    if plan.job and "meta" in plan.job.table:
        root["meta"] = plan.job.table["meta"]
    _note_placeholders(plan, targets, config["name"])
    return Node(root)


def _targets(plan: Plan) -> _Targets:
    root = plan.prompts
    if "slider" in root.table and "prompts" not in root.table:
        root = root.table["slider"]
    top = _values(root)
    listed = next((root.table[name] for name in TABLES if name in root.table), None)
    result = _Targets()
    entries = [entry for entry in listed.items if not entry.left_out] if listed is not None else [root]
    own_mode = listed is not None and "prompts" not in root.table and "target" in entries[0].table
    for entry in entries:
        is_prompt = "target" in entry.table or own_mode or (listed is not None and "target_class" not in entry.table
                                                            and "prompts" in root.table)  # fmt: skip
        values = _values(entry).over(top)
        in_prompts = "prompts" in root.table
        _entry(plan, entry, root if entry is not root else Node({}), values, result, is_prompt, in_prompts)
    if listed is not None:
        result.left |= {name: child for name, child in root.table.items() if child.left_out}
        first = result.items[0] if result.items else None
        if first is not None and listed.before and listed.before is not entries[0].before:
            first.before = [*listed.before, *first.before]
    if len(set(result.sizes)) != len(result.sizes):
        result.sizes = list(dict.fromkeys(result.sizes))
    return result


def _entry(
    plan: Plan, entry: Node, top: Node, values: Values, result: _Targets, is_prompt: bool, in_prompts: bool
) -> None:
    """Add one entry as a target."""
    left = _left(plan, entry, top, values, is_prompt, in_prompts)
    table = _prompt_target(plan, entry, values) if is_prompt else _slider_target(entry, values)
    for name in ("multiplier", "weight"):
        own = entry.table.get(name)
        value = getattr(values, name)
        if own is not None:
            table[name] = own
        elif value is not None:
            table[name] = Node(value)
    result.items.append(entry.like({**table, **left}) if top.table else Node({**table, **left}))
    _sizes(plan, entry, values, result, is_prompt)
    result.crops |= bool(values.dynamic_crops)


def _slider_target(entry: Node, values: Values) -> dict[str, Node]:
    table: dict[str, Node] = {"target_class": entry.table.get("target_class", Node(values.target_class or ""))}
    for name in ("positive", "negative"):
        text = getattr(values, name)
        table[name] = entry.table.get(name, Node(text or ""))
    return table


def _prompt_target(plan: Plan, entry: Node, values: Values) -> dict[str, Node]:
    """Say with both sides of a slider what one direction of a prompt says."""
    positive = values.target if values.positive is None else values.positive
    concept, other = positive or "", values.unconditional or ""
    up, down = (other, concept) if values.action != "enhance" else (concept, other)
    was = f"{values.action or 'erase'} trains one direction"
    done = "a slider of ai-toolkit; it trains the opposite at the negative strength too"
    plan.report.note("changed", plan.prompt_source, entry, was, done)
    if is_blank(up) and is_blank(down):
        plan.report.note(
            "lost", plan.prompt_source, entry, "both sides are empty", "the trainer learns nothing from it"
        )
    node = {name: entry.table.get(name, Node("")) for name in ("target", "positive", "unconditional")}
    up_node, down_node = ("positive", "unconditional") if values.action == "enhance" else ("unconditional", "positive")
    return {
        "target_class": node["target"].like(values.target or ""),
        "positive": node[up_node].like(up),
        "negative": node[down_node].like(down),
    }


def _left(plan: Plan, entry: Node, top: Node, values: Values, is_prompt: bool, in_prompts: bool) -> dict[str, Node]:
    """Note what a target of ai-toolkit cannot say; returns the entry's own part of it, as comments."""
    left: dict[str, Node] = {name: child for name, child in entry.table.items() if child.left_out}
    for name, (fixed, why) in _FIXED.items():
        value = getattr(values, name)
        place = entry.table.get(name, top.table.get(name))
        if name == "neutral" and is_prompt and value is None:
            value, place = values.unconditional or "", entry
        if name == "neutral" and in_prompts and not is_prompt:
            value, place = _values(entry).neutral, entry.table.get(name)
        if value is None or value == fixed:
            continue
        plan.report.note("lost", plan.prompt_source, place or entry, f"{value!a:.60}, but {why}", _LEFT_OUT)
        if name in entry.table:
            left[name] = entry.table[name].omitted()
    for name in NEUTRAL_LISTS:
        place = entry.table.get(name, top.table.get(name))
        if place is not None and not place.left_out:
            was = "several neutrals, but the trainer always starts from the empty prompt"
            plan.report.note("lost", plan.prompt_source, place, was, _LEFT_OUT)
            if name in entry.table:
                left[name] = place.omitted()
    return left


def _sizes(plan: Plan, entry: Node, values: Values, result: _Targets, is_prompt: bool) -> None:
    """Collect sizes and batch sizes, which all targets share."""
    sizes = (None if is_prompt else values.resolutions) or values.resolution
    each = list(sizes.each) if sizes else [(512, 512)]
    if result.items[1:] and set(each) != set(result.sizes):
        was = "this entry has sizes of its own"
        plan.report.note("lost", plan.prompt_source, entry, was, "the trainer draws one of all sizes for every target")
    result.sizes += [size for size in each if size not in result.sizes]
    batch = values.batch_size or 1
    if result.batches and batch != result.batches[0]:
        was = f"batch_size {batch} for this entry"
        plan.report.note("lost", plan.prompt_source, entry, was, f"all are trained with {result.batches[0]}")
    result.batches.append(batch)


def _settings(plan: Plan, targets: _Targets, model: str) -> dict[str, Node]:
    """Return network, train, model and save: the source's own, else our defaults, written out."""
    known = {
        name: dict(kind.model_construct().model_dump(mode="json"))
        for name, kind in sections().items()
        if name != "model"
    }
    is_xl = targets.crops or min(min(size) for size in targets.sizes) >= 1024
    guess = SDXL if is_xl else SD1
    result: dict[str, Node] = {}
    for section in ("network", "train", "save"):
        defaults = {name: Node(value) for name, value in known[section].items() if value is not None}
        result[section] = _section(plan, section, {name: n for name, n in defaults.items() if name not in _OURS_ONLY})
    steps = plan.setting("leco", "max_denoising_steps") or Node(known["leco"]["max_denoising_steps"])
    result["train"].table.setdefault("max_denoising_steps", steps)
    result["train"].table["batch_size"] = Node(targets.batches[0])
    result["train"].table.update(train_unet=Node(True), train_text_encoder=Node(False))
    own = plan.setting("model", "name_or_path")
    if own is None:
        model_node = Node(model or guess)
        if not model:
            was = "the source names no base model"
            plan.report.note("added", plan.source, plan.source.root, was, f"{guess} is written; put yours there")
    result["model"] = _section(plan, "model", {"name_or_path": own or model_node})
    result["model"].table.setdefault("is_xl", Node(is_xl))
    for name, node in plan.process.table.items() if plan.process else ():
        if name == "leco":
            _note_walk(plan, node)
        elif name in ("sample", "logging") and name not in result:
            result[name] = node
    return result


def _section(plan: Plan, section: str, defaults: Mapping[str, Node]) -> Node:
    process = plan.process
    own = process.table.get(section) if process else None
    table = dict(defaults)
    for name, node in own.table.items() if own else ():
        if name in _OURS_ONLY:
            if plain(node) != 0:
                was = "the slider trainer has no such setting"
                plan.report.note("lost", plan.source, node, was, "left out")
        elif (section, name) not in HARMLESS or plain(node) != HARMLESS[section, name]:
            table[name] = node
    return (own or Node({})).like(table)


def _note_walk(plan: Plan, options: Node) -> None:
    for name, node in options.table.items():
        if name == "denoise_guidance_scale" and node.value != 3:
            was = f"{node.value}, but the trainer always walks at 3"
            plan.report.note("lost", plan.source, node, was, "left out")
        elif name not in ("denoise_guidance_scale", "max_denoising_steps"):
            plan.report.note("lost", plan.source, node, "how the walk runs here", "left out")


def _of_process(plan: Plan, name: str) -> Node | None:
    return plan.process.table.get(name) if plan.process else None


def _device(plan: Plan, node: Node | None) -> Node:
    if node is None:
        return Node("cuda:0")
    if node.value == "auto":
        plan.report.note("changed", plan.source, node, "ai-toolkit has no auto", "written as cuda:0")
        return node.like("cuda:0")
    return node


def _note_placeholders(plan: Plan, targets: _Targets, name: Node) -> None:
    for target in targets.items:
        for key in ("target_class", "positive", "negative"):
            node = target.table[key]
            if "[name]" in str(node.value) and name.value != "[name]":
                was = "ai-toolkit puts the job's name where [name] stands"
                plan.report.note(
                    "lost", plan.prompt_source, node, was, "written as it is, and so changed by the trainer"
                )


def _values(node: Node) -> Values:
    bare = {name: plain(child) for name, child in node.table.items() if not child.left_out}
    return read_values(bare, (), Findings(Path()))
