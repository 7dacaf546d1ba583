"""LoRA files for the transformers of flow models: written as diffusers does, read whichever trainer wrote them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from leco_plugin.config.families import FlowFamily, family_of_transformer
from leco_plugin.config.flow_rules import network_refusals
from leco_plugin.config.schema import NetworkConfig
from leco_plugin.errors import NetworkError
from leco_plugin.network.differences import Parts
from leco_plugin.network.lora_read import LoraFile

PREFIX = "transformer."


def family_of(module: nn.Module) -> FlowFamily | None:
    """The family whose transformer this is; None for a UNet, and what plugins bring."""
    return family_of_transformer(type(module).__name__)


def check_config(config: NetworkConfig, family: FlowFamily) -> None:
    """Raise NetworkError for what a job's network section says of UNets, and for files that no loader would read."""
    found = list(network_refusals(config, family))
    if found:
        raise NetworkError(found)


def flow_layers(module: nn.Module, family: FlowFamily) -> list[str]:
    """The linears of attention and feed-forward of a transformer's blocks, but for those that nothing reads."""
    linears = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    found = [name for name in linears if re.fullmatch(family.layers, name)]
    if not family.idle:
        return found
    last = max(int(number) for name in found for number in re.findall(r"\.(\d+)\.", name)[:1])
    idle = re.compile(family.idle.replace("LAST", str(last)))
    return [name for name in found if not idle.fullmatch(name)]


def flow_tensors(layers: Mapping[str, Parts]) -> dict[str, Tensor]:
    """The tensors of a file by key, with alpha / rank in the ups: these files have no place for alpha."""
    tensors = {}
    for name, parts in layers.items():
        down, up = parts["lora_down.weight"], parts["lora_up.weight"]
        tensors[f"{PREFIX}{name}.lora_A.weight"] = down
        tensors[f"{PREFIX}{name}.lora_B.weight"] = up * (float(parts["alpha"]) / len(down))
    return tensors


def in_diffusers_names(file: LoraFile, module: nn.Module) -> LoraFile:
    """``file`` by the names of diffusers' layers, if it is for a flow model and written otherwise.

    A file that has those names behind any trainer's prefix stays as it is; for others there is diffusers' own
    conversion, which knows their formats. NetworkError for one that it does not know.
    """
    family = family_of(module)
    if family is None:
        return file
    layers = {name.replace(".", "_") for name, _ in module.named_modules()}
    if not _known(file, layers) or _known(file, layers) < len(file.layers):
        converted = _converted(file, family, known=_known(file, layers))
        file = max(file, converted, key=lambda one: _known(one, layers))
    return _with_alphas(file)


def _known(file: LoraFile, layers: Collection[str]) -> int:
    """How many of its layers are among these."""
    return sum(layer.owner == "text" or layer.name in layers for layer in file.layers)


def _converted(file: LoraFile, family: FlowFamily, known: int) -> LoraFile:
    """What diffusers makes of a file; where it stumbles, the file itself if some of it is ``known`` anyway."""
    loader: Any = getattr(diffusers, family.pipeline)
    try:
        converted = loader.lora_state_dict(dict(file.tensors))
    # what it raises for keys that it does not know is not one kind of error
    except Exception as error:
        if known:
            return file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetworkError(
            f"{file.path} is in a format that diffusers does not read for {family.title}: {reason}",
            fix="name the model that it was made for, or a file as diffusers or ComfyUI have it",
        ) from error
    return replace(file, tensors=dict(converted[0] if isinstance(converted, tuple) else converted))


def _with_alphas(file: LoraFile) -> LoraFile:
    """``file`` with an alpha for every LoRA without one, and the ups to go with it, where nothing tells its scale.

    It is the rank, as loaders take it; in LECO's own files it is what the network was trained with.
    """
    found: dict[str, Tensor] = {}
    for layer in file.layers:
        if layer.told or "lora_up.weight" not in layer.keys or "lora_down.weight" not in layer.keys:
            continue
        down, up = (layer.keys[f"lora_{side}.weight"] for side in ("down", "up"))
        rank = len(file.tensors[down])
        alpha = _own_alpha(file.metadata, rank)
        found[f"{_stem(down)}.alpha"] = torch.tensor(alpha)
        if alpha != rank:
            found[up] = file.tensors[up].float() * (rank / alpha)
    return replace(file, tensors={**file.tensors, **found})


def _stem(key: str) -> str:
    """The key of a layer's tensor without what tells which of them it is."""
    return re.split(r"\.lora[._]", key)[0]


def _own_alpha(metadata: Mapping[str, str], rank: int) -> float:
    try:
        alpha = float(metadata.get("ss_network_alpha", "")) if "ss_leco_version" in metadata else 0.0
    except ValueError:
        alpha = 0.0
    return alpha if alpha > 0 else float(rank)
