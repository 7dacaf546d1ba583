"""What the files of a flow model tell without torch: its family, and whether it is distilled."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leco_plugin.config.families import (
    FLOW_FAMILIES,
    Distilled,
    FlowFamily,
    distilled,
    family_of_pipeline,
    takes_guidance,
)
from leco_plugin.config.schema import ModelConfig
from leco_plugin.errors import Problem
from leco_plugin.tiny import BUILTIN

_FILES = ("model_index.json", "transformer/config.json", "scheduler/scheduler_config.json")
COMFY = "model.diffusion_model."
"""What stands before all names in ComfyUI's files, and in those that hold text encoders and VAE as well."""
_MARKS = (
    ("flux2", "single_stream_modulation.lin.weight", "single_stream_modulation.linear.weight"),
    ("chroma", "distilled_guidance_layer.in_proj.weight"),
    ("flux", "double_blocks.0.img_attn.norm.key_norm.scale", "single_transformer_blocks.0.proj_mlp.weight"),
    ("z_image", "layers.0.adaLN_modulation.0.weight"),
    ("sd3", "joint_blocks.0.x_block.adaLN_modulation.1.weight", "transformer_blocks.0.norm1_context.linear.weight"),
    ("lumina2", "cap_embedder.0.weight", "time_caption_embed.caption_embedder.0.weight"),
    ("auraflow", "double_layers.0.attn.w2q.weight", "joint_transformer_blocks.0.attn.to_q.weight"),
    ("krea2", "txtfusion.projector.weight", "text_fusion.projector.weight"),
    ("qwen_image", "transformer_blocks.0.img_mod.1.weight"),
)
"""A weight of each family by its authors' name, and by diffusers' where that is another; the first that is there."""


@dataclass(frozen=True)
class FlowFacts:
    """What was found."""

    family: FlowFamily
    distilled: Distilled | None
    takes_guidance: bool
    """Whether it takes its guidance as a number."""


def find_flow(model: ModelConfig) -> FlowFacts | None:
    """The family of the model that a job names; None where it is no flow model, or its files are not at hand."""
    index, transformer, scheduler = (read_config(model.extras or model.name_or_path, file) for file in _FILES)
    family = family_of_pipeline(index.get("_class_name"))
    if family is None:
        return None
    name = Path(model.name_or_path).name
    found = distilled(family, index, transformer, scheduler, name, model.distilled)
    return FlowFacts(family, found, takes_guidance(family, transformer))


def family_of_names(names: Iterable[str]) -> FlowFamily | None:
    """The family whose transformer has weights of these names; None where it is none of these."""
    found = {name.removeprefix(COMFY) for name in names}
    return next((FLOW_FAMILIES[family] for family, *marks in _MARKS if not found.isdisjoint(marks)), None)


def transformer_alone(path: Path, family: FlowFamily) -> Problem:
    """What is wrong with a job that names nothing but the transformer."""
    message = f"{path} holds the transformer of {family.title}, and the text encoders and the VAE are missing"
    return Problem(None, message, "name a diffusers folder or hub id that has them in model.extras")


def read_config(name: str, file: str) -> dict[str, Any]:
    """One of a model's config files, from its folder or the hub's cache; empty where there is none to be read."""
    path = BUILTIN[name] / file if name in BUILTIN else Path(os.path.expanduser(name), file)
    try:
        if not path.is_file():
            found = _in_hub_cache(name, file)
            if found is None:
                return {}
            path = found
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _in_hub_cache(name: str, file: str) -> Path | None:
    from huggingface_hub.constants import HF_HUB_CACHE

    if not Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}").is_dir():
        # the import below takes longer than all else that a check of a job does
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
