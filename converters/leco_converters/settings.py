"""Settings that the trainers name alike, name otherwise, or do not have, and what stands for those not written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from leco_converters.report import Kind
from leco_converters.request import Origin, Plan
from leco_converters.tree import Node
from leco_plugin.config.blame import blame
from leco_plugin.config.findings import Findings
from leco_plugin.config.schema import JobConfig

Name = tuple[str, str]
"""Section and key, such as ``("train", "steps")``."""

ALIASES: Mapping[Name, Name] = {
    ("network", "rank"): ("network", "linear"),
    ("network", "alpha"): ("network", "linear_alpha"),
    ("network", "training_method"): ("network", "layers"),
    ("network", "pretrained_lora_path"): ("network", "network_weights"),
    ("train", "max_denoising_steps"): ("leco", "max_denoising_steps"),
    ("train", "gradient_accumulation_steps"): ("train", "gradient_accumulation"),
}
SPELLINGS: Mapping[Name, Mapping[str, str]] = {
    ("network", "type"): {"lierla": "lora", "c3lier": "lora", "locon": "lora"},
    ("train", "loss_type"): {"mse": "l2", "mae": "l1"},
}
"""Other words for our values."""
AI_TOOLKIT: Mapping[str, frozenset[str]] = {
    "network": frozenset({"type", "linear", "linear_alpha", "rank", "alpha", "conv", "conv_alpha", "dropout"}),
    "train": frozenset(
        {"steps", "lr", "unet_lr", "optimizer", "optimizer_params", "lr_scheduler", "noise_scheduler", "dtype"}
        | {"max_denoising_steps", "batch_size", "gradient_checkpointing", "gradient_accumulation", "max_grad_norm"}
        | {"min_snr_gamma", "noise_offset", "xformers", "train_unet", "train_text_encoder"}
    ),
    "save": frozenset({"dtype", "save_every", "max_step_saves_to_keep"}),
    "model": frozenset({"name_or_path", "is_v2", "is_v_pred", "is_xl", "arch"}),
}
"""Settings that ai-toolkit's slider trainer reads and that other sources may have."""
CONVOLUTIONS = ("c3lier", "locon")
SEEN_IN_THE_MODEL = frozenset({"is_xl", "is_v2", "is_v_pred", "arch"})
"""Kinds of model that the trainer reads from the model itself."""
HARMLESS: Mapping[Name, object] = {
    ("model", "is_v2"): False,
    ("model", "is_v_pred"): False,
    ("model", "is_xl"): False,
    ("train", "train_unet"): True,
    ("train", "train_text_encoder"): False,
    ("train", "xformers"): False,
    ("logging", "use_wandb"): False,
    ("logging", "verbose"): False,
    ("network", "training_method"): "full",
}
"""Values that say what is so anyway."""
_DEFAULTS: Mapping[Origin, Mapping[Name, object]] = {
    "ai-toolkit": {
        ("train", "steps"): 1000,
        ("train", "lr"): 1e-6,
        ("train", "noise_scheduler"): "ddpm",
        ("train", "gradient_checkpointing"): True,
        ("train", "max_denoising_steps"): 999,
        ("save", "save_every"): 1000,
        ("save", "max_step_saves_to_keep"): 5,
    },
    "leco-config": {
        ("train", "steps"): 500,
        ("train", "dtype"): "bfloat16",
        ("train", "max_denoising_steps"): 50,
        ("save", "save_every"): 200,
        ("save", "dtype"): "float32",
    },
}
"""What the source's trainer takes where nothing is written, and this one does not."""


@dataclass(frozen=True)
class Outcome:
    """What became of one setting in one kind of result."""

    node: Node
    kind: Kind
    was: str
    done: str


def sections() -> dict[str, type[BaseModel]]:
    """Return the sections of our jobs that hold settings."""
    found = {name: field.annotation for name, field in JobConfig.model_fields.items()}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


def refusal(model: type[BaseModel], name: str, value: object) -> str:
    """Say what is wrong with one setting; empty where nothing is."""
    if name not in model.model_fields:
        return "there is no such setting here"
    findings = Findings(Path())
    try:
        model.model_validate({name: value})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["loc"][:1] == (name,):
                blame(detail, (), findings, model)
    return findings.errors[0].message if findings.errors else ""


def add_defaults(plan: Plan) -> None:
    """Write out what the source's trainer takes where nothing is written; changes the plan's job."""
    process = plan.process
    if process is None:
        return
    defaults = dict(_DEFAULTS.get(plan.origin, {}))
    conv = plan.setting("network", "conv")
    if plan.origin == "ai-toolkit" and conv is not None and conv.value:
        defaults["network", "conv_alpha"] = conv.value
    for (section, name), value in defaults.items():
        rank = [old for old, new in ALIASES.items() if new == (section, name)]
        if any(plan.setting(*known) is not None for known in ((section, name), *rank)):
            continue
        table = process.table.setdefault(section, Node({}, process.key, process.line))
        if isinstance(table.value, dict):
            table.value[name] = Node(value)
            was = f"{section}.{name} is not written, and its trainer then takes {value}"
            plan.report.note("added", plan.source, table, was, "written out")
