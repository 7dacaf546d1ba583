"""The weights of a LoRA file that training goes on from: what evaluate reads, as far as a network here can hold it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from leco_plugin.errors import NetworkError
from leco_plugin.network.differences import LENGTHS, Parts, networks, rank_of
from leco_plugin.network.layers import Plan, Size
from leco_plugin.network.lora_read import Layer, LoraFile
from leco_plugin.network.matched import match, weight_shape

_TITLES = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr"}
_CORES = ("lora_mid.weight", "hada_t1", "hada_t2", "lokr_t2")
_SAME = 0.005
"""Alphas are as far apart when one was written in bfloat16."""


@dataclass(frozen=True)
class Start:
    """A file's factors, by the names of the model's layers."""

    path: Path
    layers: Mapping[str, Parts]
    sizes: Plan
    notes: tuple[str, ...]
    """What of the file is left out, for the user."""

    def check(self, plan: Plan) -> None:
        """Raise NetworkError where these are not the layers, ranks and alphas that ``plan`` has."""
        for name in plan:
            if name not in self.layers:
                raise NetworkError(
                    f"{self.path} has nothing for the layer {name}", fix="set dim_from_weights, or other layers"
                )
        for name, found in self.sizes.items():
            if name not in plan:
                raise NetworkError(
                    f"{self.path} has weights for the layer {name}, where this network has none",
                    fix="set dim_from_weights",
                )
            said, whole = plan[name], rank_of(self.layers[name]) is None
            if not whole and (found.rank != said.rank or not math.isclose(found.alpha, said.alpha, rel_tol=_SAME)):
                raise NetworkError(
                    f"{self.path} has rank {found.rank} and alpha {found.alpha:g} where the job has rank {said.rank} "
                    f"and alpha {said.alpha:g}",
                    fix="set dim_from_weights, or the same rank and alpha",
                )


def read_start(path: Path, module: nn.Module, kind: str, trainable: Plan) -> Start:
    """The factors in ``path`` for a network of ``kind`` (lora, loha, lokr) on the ``trainable`` layers of ``module``.

    NetworkError where the file cannot be read, is for another model, or holds networks that are not trained here.
    """
    file = LoraFile.read(path)
    matched = match(file, module)
    layers: dict[str, Parts] = {}
    other: list[str] = []
    for name, layer in matched.layers.items():
        _refuse_other_kinds(path, layer, kind)
        taken = set(networks(layer.parts).get(_TITLES[kind], ())) - {"lora_up.bias"} if name in trainable else set()
        other += (key for part, key in layer.keys.items() if part not in {*taken, "alpha"})
        if taken:
            layers[name] = _scaled({part: layer.parts[part] for part in taken}, layer)
    if not layers:
        raise NetworkError(f"{path} is no {kind} file: it holds {next(iter(file.tensors))}", fix="name another file")
    sizes = {name: _size(matched.layers[name], weight_shape(module.get_submodule(name))) for name in layers}
    notes = list(matched.left_out.sentences())
    if other:
        notes.append(f"{len(other)} tensors are not trained here and left out, such as {other[0]}")
    return Start(path, layers, sizes, tuple(f"{path.name}: {note}" for note in notes))


def _refuse_other_kinds(path: Path, layer: Layer, kind: str) -> None:
    length = next((name for name in LENGTHS if name in layer.parts), None)
    if length is not None:
        raise NetworkError(f"{path} is a DoRA, which is not trained here: it holds {layer.keys[length]}", fix=_PLAIN)
    core = next((name for name in _CORES if name in layer.parts), None)
    if core is not None:
        raise NetworkError(f"{path} has convolutions with a core, which is not trained here: {layer.keys[core]}")
    found = networks(layer.parts)
    for other, title in _TITLES.items():
        if other != kind and title in found:
            raise NetworkError(
                f"{path} is no {kind} file: it holds {layer.keys[found[title][0]]}", fix=f"set network.type to {other}"
            )


_PLAIN = "start from a plain LoRA, or without network_weights"


def _scaled(parts: dict[str, Tensor], layer: Layer) -> Parts:
    """The factors; where they have no rank and so no alpha here, with their scale in them."""
    if rank_of(parts) is None and layer.scale != 1:
        return {**parts, "lokr_w1": parts["lokr_w1"] * layer.scale}
    return parts


def _size(layer: Layer, shape: torch.Size) -> Size:
    """The rank and alpha of a layer; a rank at which a LoKr layer is whole where its factors are."""
    rank = rank_of(layer.parts)
    if rank is not None:
        return Size(rank, rank * layer.scale)
    said = layer.parts.get("alpha", torch.tensor(float(max(shape))))
    return Size(max(shape), float(said))
