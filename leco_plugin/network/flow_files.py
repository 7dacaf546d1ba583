"""LoRA files for the transformers of flow models: written as diffusers does, read whichever trainer wrote them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from leco_plugin.config.families import FlowFamily, family_of_transformer
from leco_plugin.config.schema import NetworkConfig
from leco_plugin.errors import NetworkError
from leco_plugin.network.lora_file import LoraWeights
from leco_plugin.network.lora_read import LoraFile

PREFIX = "transformer."
_OURS = re.compile(r"transformer\.(.+)\.lora_[AB]\.weight")


def family_of(module: nn.Module) -> FlowFamily | None:
    """The family whose transformer this is; None for a UNet, and what plugins bring."""
    return family_of_transformer(type(module).__name__)


def check_config(config: NetworkConfig, family: FlowFamily) -> None:
    """Raise NetworkError for what a job's network section says of UNets, and for files that no loader would read."""
    if config.type != "lora":
        raise NetworkError(
            f"no loader reads {config.type} files for {family.title} without converting them",
            fix="set network.type to lora",
        )
    if config.conv is not None:
        raise NetworkError(f"{family.title} has no convolutions that network.conv could mean", fix="leave conv out")
    if config.layers != "all":
        raise NetworkError(
            f"network.layers {config.layers} is about UNets, and {family.title} attends to text and picture together",
            fix="leave layers out; only_if_contains: [attn] takes attention alone",
        )


def flow_layers(module: nn.Module, family: FlowFamily) -> list[str]:
    """The linears of attention and feed-forward of a transformer's blocks, but for those that nothing reads."""
    linears = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    found = [name for name in linears if re.fullmatch(family.layers, name)]
    if not family.idle:
        return found
    last = max(int(number) for name in found for number in re.findall(r"\.(\d+)\.", name)[:1])
    idle = re.compile(family.idle.replace("LAST", str(last)))
    return [name for name in found if not idle.fullmatch(name)]


def flow_tensors(layers: Mapping[str, LoraWeights]) -> dict[str, Tensor]:
    """The tensors of a file by key, with alpha / rank in the ups: these files have no place for alpha."""
    tensors = {}
    for name, weights in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = weights.down
        tensors[f"{PREFIX}{name}.lora_B.weight"] = weights.up * (weights.alpha / len(weights.down))
    return tensors


def in_diffusers_names(file: LoraFile, module: nn.Module) -> LoraFile:
    """``file`` by the names of diffusers' layers, if it is for a flow model and written otherwise.

    diffusers' own conversion, which knows the formats of the trainers; NetworkError for one that it does not know.
    """
    family = family_of(module)
    if family is None:
        return file
    tensors = dict(file.tensors)
    layers = {name for name, _ in module.named_modules()}
    named = [match.group(1) in layers for key in tensors if (match := _OURS.fullmatch(key))]
    if not named or not all(named):
        tensors = _converted(file, family)
    return replace(file, tensors={**tensors, **_alphas(file, tensors)}, adapter=file.adapter)


def _converted(file: LoraFile, family: FlowFamily) -> dict[str, Tensor]:
    loader: Any = getattr(diffusers, family.pipeline)
    try:
        converted = loader.lora_state_dict(dict(file.tensors))
    # what it raises for keys that it does not know is not one kind of error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetworkError(
            f"{file.path} is in a format that diffusers does not read for {family.title}: {reason}",
            fix="name the model that it was made for, or a file as diffusers or ComfyUI have it",
        ) from error
    return dict(converted[0] if isinstance(converted, tuple) else converted)


def _alphas(file: LoraFile, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An alpha for every layer without one, and the ups to go with it, where no config tells its scale.

    It is the rank, as loaders take it; in LECO's own files it is what the network was trained with.
    """
    if file.adapter is not None:
        return {}
    found: dict[str, Tensor] = {}
    for key, down in tensors.items():
        match = _OURS.fullmatch(key)
        if match is None or not key.endswith("lora_A.weight") or f"{PREFIX}{match.group(1)}.alpha" in tensors:
            continue
        rank, up = len(down), f"{PREFIX}{match.group(1)}.lora_B.weight"
        alpha = _own_alpha(file.metadata, rank)
        found[f"{PREFIX}{match.group(1)}.alpha"] = torch.tensor(alpha)
        if alpha != rank and up in tensors:
            found[up] = tensors[up].float() * (rank / alpha)
    return found


def _own_alpha(metadata: Mapping[str, str], rank: int) -> float:
    try:
        alpha = float(metadata.get("ss_network_alpha", "")) if "ss_leco_version" in metadata else 0.0
    except ValueError:
        alpha = 0.0
    return alpha if alpha > 0 else float(rank)
