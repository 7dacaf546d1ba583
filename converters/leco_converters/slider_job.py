"""Prompts and settings of any source to a `slider` job that ai-toolkit's own trainer runs."""

from __future__ import annotations

from collections.abc import Mapping

from leco_converters.anchors import anchors_of
from leco_converters.foreign import SLIDER
from leco_converters.leco_job import WRITTEN, default_of, process_of
from leco_converters.prompt_tables import top
from leco_converters.report import Report
from leco_converters.request import Plan
from leco_converters.settings import Settings
from leco_converters.slider_targets import Targets, slider_targets
from leco_converters.tree import Node, plain

_SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_NAMES: Mapping[str, str] = {row.to: name for name, row in reversed(list(SLIDER.items())) if row.to}
"""What our options are called there."""
_SWITCHES = ("memory.attention", "logging.log_with")
"""Options that are several switches there, of which each says one value alone."""
_SPELLED: Mapping[str, Mapping[object, object]] = {
    "train.loss_type": {ours: theirs for theirs, ours in SLIDER["train.loss_type"].words.items()},
    "logging.log_with": {"wandb": True, "all": True},
    "memory.attention": {"xformers": True},
}


def slider_job(plan: Plan, name: str, model: str) -> tuple[Node, list[Node]]:
    """Return the job, and what is left out of it; what it cannot say goes to the plan's report."""
    report, settings = plan.report, plan.settings
    targets = slider_targets(plan.prompts, report)
    preserve = top(plan.prompts).table.get("preserve")
    anchors = {} if preserve is None else {"anchors": anchors_of(preserve, report)}
    left: list[Node] = list(settings.report.left)
    values = _values(settings, report, left)
    values |= _model(plan, targets, values, model)
    config = {"name": Node(name), "training_folder": values.pop("training_folder"), "device": Node("cuda:0")}
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


def _values(settings: Settings, report: Report, left: list[Node]) -> dict[str, Node]:
    """Return the settings by ai-toolkit's names: our defaults, and over them what the source says."""
    result = {option: Node(default_of(option)) for option in WRITTEN}
    result["train.max_denoising_steps"] = Node(default_of("leco.max_denoising_steps"))
    result |= {"train.train_unet": Node(True), "train.train_text_encoder": Node(False)}
    for option, node in settings.values.items():
        name, value = _NAMES.get(option, ""), plain(node)
        spelled = _SPELLED.get(option, {}).get(value if isinstance(value, str) else "")
        if name and (spelled is not None or option not in _SWITCHES):
            result[name] = node if spelled is None else node.like(spelled)
        elif value != default_of(option):
            walks = option == "leco.denoise_guidance_scale"
            none = f"the slider trainer has no {option.rpartition('.')[2]}"
            report.say("no_option", node, why=f"{value}, but the trainer always walks at 3" if walks else none)
            left.append(node)
    return result


def _model(plan: Plan, targets: Targets, values: Mapping[str, Node], model: str) -> dict[str, Node]:
    own, root, report = values.get("model.name_or_path"), plan.source.root, plan.report
    is_xl = targets.varies_crops or min(map(min, targets.sizes)) >= 1024
    chosen: dict[str, Node] = {}
    if own is not None and str(own.value).startswith("builtin:"):
        report.say("builtin", own)
    if own is None:
        chosen["model.name_or_path"] = Node(model or (_SDXL if is_xl else _SD1))
        if not model:
            report.say("no_model", root, model=_SDXL if is_xl else _SD1)
    if "model.is_xl" not in values:
        chosen["model.is_xl"] = Node(is_xl)
        report.say("is_xl", root, said=str(is_xl).lower())
    return chosen


def _note_traps(targets: Targets, anchors: Mapping[str, Node], name: object, steps: object, report: Report) -> None:
    """Report what ai-toolkit would do to the job without a word."""
    if isinstance(steps, int) and len(targets.listed.items) > steps:
        report.say("dropped", targets.listed, steps=steps)
    for item in (*(item for one in anchors.values() for item in one.items), *targets.listed.items):
        for key, node in item.table.items():
            if key not in ("multiplier", "weight") and "[name]" in str(node.value) and name != "[name]":
                report.say("name_there", node)
