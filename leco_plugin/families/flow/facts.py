"""What the config files of a flow model tell, where they are at hand: its family, and whether it is distilled."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leco_plugin.config.families import Distilled, FlowFamily, distilled, family_of_pipeline, takes_guidance
from leco_plugin.config.schema import ModelConfig
from leco_plugin.tiny import BUILTIN

_FILES = ("model_index.json", "transformer/config.json", "scheduler/scheduler_config.json")


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
