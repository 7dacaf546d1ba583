"""Prompts and settings of any source to a `slider` job that ai-toolkit's own trainer runs."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from leco_converters.request import Plan
from leco_converters.settings import AI_TOOLKIT, HARMLESS, sections
from leco_converters.slider_targets import Targets, slider_targets
from leco_converters.tree import Node, plain

SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_WRITTEN: Mapping[str, tuple[str, ...]] = {
    "network": ("type", "linear", "linear_alpha"),
    "train": ("steps", "lr", "optimizer", "lr_scheduler", "noise_scheduler", "dtype", "gradient_checkpointing"),
    "save": ("dtype",),
}
"""Settings with our defaults where the source says nothing, since ai-toolkit's are others."""
_PLACED = frozenset({"type", "network", "train", "save", "model", "training_folder", "device", "training_seed"})
_SPELLED = {("train", "loss_type"): {"l2": "mse", "l1": "mae"}}


def slider_job(plan: Plan, name: str, model: str) -> Node:
    """Return the job; what it cannot say goes to the plan's report."""
    targets = slider_targets(plan)
    process = {"type": Node("slider"), **_settings(plan, targets, model)}
    resolutions = Node([Node([Node(height), Node(width)]) for height, width in targets.sizes])
    anchors = {"anchors": targets.anchors} if targets.anchors else {}
    process["slider"] = Node({**targets.left_out, "resolutions": resolutions, **anchors, "targets": targets.listed})
    config = plan.job.table["config"].table if plan.job else {}
    own = plan.process.table if plan.process else {}
    new_config = {
        "name": config.get("name", Node(name)),
        "training_folder": own.get("training_folder", config.get("training_folder", Node("output"))),
        "device": _device(plan, own.get("device", config.get("device", Node("cuda:0")))),
    }
    if "training_seed" in own:
        process["training_seed"] = own["training_seed"]
    _note_placeholders(plan, targets, new_config["name"])
    _note_trimmed(plan, targets, process["train"].table["steps"].value)
    old_list = config.get("process", Node([Node({})]))
    new_config["process"] = old_list.like([old_list.items[0].like(process)])
    root = {"job": Node("train"), "config": Node(new_config)}
    if plan.job:
        root |= {key: plan.job.table[key] for key in ("meta",) if key in plan.job.table}
        root["job"] = plan.job.table["job"].like("train")
    return Node(root)


def _settings(plan: Plan, targets: Targets, model: str) -> dict[str, Node]:
    """Return network, train, save and model: the source's own, else our defaults, written out."""
    result: dict[str, Node] = {}
    known = sections()
    for section, names in _WRITTEN.items():
        defaults = {name: Node(known[section].model_fields[name].default) for name in names}
        result[section] = _section(plan, section, defaults)
    steps = plan.setting("leco", "max_denoising_steps")
    default = Node(known["leco"].model_fields["max_denoising_steps"].default)
    result["train"].table.setdefault("max_denoising_steps", steps or default)
    result["train"].table["batch_size"] = Node(targets.batch_size)
    result["train"].table.update(train_unet=Node(True), train_text_encoder=Node(False))
    is_xl = targets.varies_crops or min(min(size) for size in targets.sizes) >= 1024
    own = plan.setting("model", "name_or_path")
    if own is not None and str(own.value).startswith("builtin:"):
        plan.report.note(
            "lost", plan.source, own, "ai-toolkit has no built-in model", "written as it is; put yours there"
        )
    if own is None and not model:
        guess = SDXL if is_xl else SD1
        was = "the source names no base model"
        plan.report.note("added", plan.source, plan.source.root, was, f"{guess} is written; put yours there")
        model = guess
    result["model"] = _section(plan, "model", {"name_or_path": own or Node(model)})
    if "is_xl" not in result["model"].table and "arch" not in result["model"].table:
        result["model"].table["is_xl"] = Node(is_xl)
        was = "the source does not say whether the model is SDXL"
        done = f"is_xl: {str(is_xl).lower()} is written, by the sizes of the prompts"
        plan.report.note("added", plan.source, plan.source.root, was, done)
    return {**result, **_rest(plan)}


def _section(plan: Plan, section: str, defaults: Mapping[str, Node]) -> Node:
    """Return the source's own settings over the defaults, without those that ai-toolkit does not know."""
    own = plan.process.table.get(section) if plan.process else None
    table = dict(defaults)
    model: type[BaseModel] = sections()[section]
    for name, node in own.table.items() if own else ():
        value = plain(node)
        spelled = _SPELLED.get((section, name), {}).get(str(value))
        if spelled:
            table[name] = node.like(spelled)
        elif name in AI_TOOLKIT[section] or (section, name) in HARMLESS:
            table[name] = node
        else:
            field = model.model_fields.get(name)
            if field is None or value != field.get_default(call_default_factory=True):
                plan.report.note("lost", plan.source, node, "the slider trainer has no such setting", "left out")
            table[name] = node.omitted()
    return (own or Node({})).like(table)


def _rest(plan: Plan) -> dict[str, Node]:
    """Return the other sections; those of the walk here have no counterpart."""
    result: dict[str, Node] = {}
    for name, node in plan.process.table.items() if plan.process else ():
        if name in ("sample", "logging"):
            result[name] = node
        elif name == "leco":
            _note_walk(plan, node)
        elif name not in _PLACED:
            plan.report.note("lost", plan.source, node, "ai-toolkit has no such setting", "left out")
            result[name] = node.omitted()
    return result


def _note_walk(plan: Plan, options: Node) -> None:
    for name, node in options.table.items():
        if node.left_out or (name == "denoise_guidance_scale" and node.value == 3):
            continue
        if name == "denoise_guidance_scale":
            was = f"{node.value}, but the trainer always walks at 3"
            plan.report.note("lost", plan.source, node, was, "left out")
        elif name != "max_denoising_steps":
            plan.report.note("lost", plan.source, node, "how the walk runs here", "left out")


def _device(plan: Plan, node: Node) -> Node:
    if node.value == "auto":
        plan.report.note("changed", plan.source, node, "ai-toolkit has no auto", "written as cuda:0")
        return node.like("cuda:0")
    return node


def _note_trimmed(plan: Plan, targets: Targets, steps: object) -> None:
    if isinstance(steps, int) and len(targets.listed.items) > steps:
        was = f"ai-toolkit drops all but the first {steps} targets of a run of {steps} steps"
        plan.report.note("lost", plan.prompt_source, targets.listed, was, "all are written; raise train.steps")


def _note_placeholders(plan: Plan, targets: Targets, name: Node) -> None:
    anchors = targets.anchors.items if targets.anchors else []
    for item in (*anchors, *(target for target in targets.listed.items if not target.left_out)):
        for key in item.table.keys() & {"prompt", "target_class", "positive", "negative"}:
            node = item.table[key]
            if "[name]" in str(node.value) and name.value != "[name]":
                was = "ai-toolkit puts the job's name where [name] stands"
                done = "written as it is, and so changed by the trainer"
                plan.report.note("lost", plan.prompt_source, node, was, done)
