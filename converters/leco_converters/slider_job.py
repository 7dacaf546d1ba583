"""Prompts and settings of any source to a `slider` job that ai-toolkit's own trainer runs."""

from __future__ import annotations

from collections.abc import Mapping

from leco_converters.foreign import SLIDER
from leco_converters.leco_job import WRITTEN, default_of
from leco_converters.request import Plan
from leco_converters.settings import Settings
from leco_converters.slider_targets import Targets, slider_targets
from leco_converters.tree import Node, plain

SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_NAMES: Mapping[str, str] = {row.to: name for name, row in reversed(list(SLIDER.items())) if row.to}
"""What our options are called there."""
_SPELLED: Mapping[str, Mapping[object, object]] = {
    "train.loss_type": {"l2": "mse", "l1": "mae", "huber": "pseudo_huber"},
    "logging.log_with": {"wandb": True, "all": True},
}
_SO_ANYWAY: Mapping[str, object] = {"leco.denoise_guidance_scale": 3, "memory.attention": "sdpa"}


def slider_job(plan: Plan, name: str, model: str) -> Node:
    """Return the job; what it cannot say goes to the plan's report."""
    targets = slider_targets(plan)
    settings = plan.settings or Settings()
    config: dict[str, Node] = {
        "name": settings.get("name") or Node(name),
        "training_folder": settings.get("training_folder") or Node(default_of("training_folder")),
        "device": _device(plan, settings.get("device") or Node("cuda:0")),
    }
    process: dict[str, Node] = {"type": Node("slider")}
    for option, node in _values(plan, settings, targets, model).items():
        if option not in config:
            section, _, key = option.rpartition(".")
            old = settings.tables.get(section, Node({}))
            (process.setdefault(section, old.like({})).table if section else process)[key] = node
    resolutions = Node([Node([Node(height), Node(width)]) for height, width in targets.sizes])
    anchors = {"anchors": targets.anchors} if targets.anchors else {}
    process["slider"] = Node({**targets.left_out, "resolutions": resolutions, **anchors, "targets": targets.listed})
    _note_placeholders(plan, targets, config["name"])
    _note_trimmed(plan, targets, process["train"].table["steps"].value)
    old_config = settings.tables.get("config", Node({})).table.get("process", Node([]))
    config["process"] = old_config.like([settings.tables.get("", Node({})).like(process)])
    meta = {"meta": settings.meta} if settings.meta else {}
    return Node({"job": plan.source.root.table.get("job", Node("train")).like("train"), "config": Node(config), **meta})


def _values(plan: Plan, settings: Settings, targets: Targets, model: str) -> dict[str, Node]:
    """Return the settings by ai-toolkit's names: our defaults, and over them what the source says."""
    result = {option: Node(default_of(option)) for option in WRITTEN}
    result["train.max_denoising_steps"] = Node(default_of("leco.max_denoising_steps"))
    for option, node in settings.values.items():
        name = _NAMES.get(option, "")
        if node.left_out:
            result[option] = node
        elif option == "memory.attention" and plain(node) == "xformers":
            result["train.xformers"] = node.like(True)
        elif name and option != "memory.attention":
            spelled = _SPELLED.get(option, {}).get(plain(node))
            result[name] = node if spelled is None else node.like(spelled)
        elif option != "leco.prompts_file":
            _note_missing(plan, option, node)
            result.update({option: node.omitted()} if option.partition(".")[0] != "leco" else {})
    extra = {"batch_size": targets.batch_size, "train_unet": True, "train_text_encoder": False}
    return {
        **result,
        **{f"train.{key}": Node(value) for key, value in extra.items()},
        **_model(plan, targets, result, model),
    }


def _note_missing(plan: Plan, option: str, node: Node) -> None:
    if option in _SO_ANYWAY and _SO_ANYWAY[option] == plain(node):
        return
    section, _, key = option.rpartition(".")
    if section and plain(node) == default_of(option) and section != "leco":
        return
    why = f"the slider trainer has no {key}"
    if option == "leco.denoise_guidance_scale":
        why = f"{plain(node)}, but the trainer always walks at 3"
    plan.report.note("lost", plan.source, node, why, "left out")


def _model(plan: Plan, targets: Targets, result: Mapping[str, Node], model: str) -> dict[str, Node]:
    own = result.get("model.name_or_path")
    is_xl = targets.varies_crops or min(min(size) for size in targets.sizes) >= 1024
    root = plan.source.root
    chosen: dict[str, Node] = {}
    if own is not None and str(own.value).startswith("builtin:"):
        was = "ai-toolkit has no built-in model"
        plan.report.note("lost", plan.source, own, was, "written as it is; put yours there")
    if own is None:
        chosen["model.name_or_path"] = Node(model or (SDXL if is_xl else SD1))
        if not model:
            done = f"{SDXL if is_xl else SD1} is written; put yours there"
            plan.report.note("added", plan.source, root, "the source names no base model", done)
    if not {"model.is_xl", "model.arch"} & result.keys():
        chosen["model.is_xl"] = Node(is_xl)
        done = f"is_xl: {str(is_xl).lower()} is written, by the sizes of the prompts"
        plan.report.note("added", plan.source, root, "the source does not say whether the model is SDXL", done)
    return chosen


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
