"""Which layers of a model the layers of a LoRA file are for, and what of the file is not used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from leco_plugin.errors import NetworkError
from leco_plugin.network.blocks import original_names
from leco_plugin.network.differences import LENGTHS, networks, unread
from leco_plugin.network.flow_files import in_diffusers_names
from leco_plugin.network.lora_read import Layer, LoraFile, shape_text

_NORMS = (nn.GroupNorm, nn.LayerNorm)
_SHOWN = 3
"""Keys that are shown of many."""
_OTHER_MODEL = "name the model that it was made for"


@dataclass(frozen=True)
class LeftOut:
    """What of a file is not used, and what is not known of the rest."""

    text: int = 0
    """Keys for a text encoder, which LECO does not train."""
    unknown: tuple[str, ...] = ()
    """Keys of parts that are not read here."""
    kinds: tuple[str, ...] = ()
    """The kinds of networks that they belong to, where that is known."""
    elsewhere: tuple[str, ...] = ()
    """Keys without a layer in this model."""
    untold: int = 0
    """Layers whose scale the file does not tell."""

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that are left out but those of text encoders."""
        return (*self.unknown, *self.elsewhere)

    def sentences(self) -> Iterator[str]:
        """Each of these, for the user."""
        if self.text:
            yield f"left out: {self.text} keys for a text encoder, which LECO does not train and is not measured"
        if self.elsewhere:
            some = _some(self.elsewhere)
            yield f"fits only partly: {len(self.elsewhere)} keys are for no layer of this model: {some}"
        if self.unknown:
            of = f" of {' and '.join(self.kinds)}" if self.kinds else ""
            yield f"not read: {len(self.unknown)} parts{of}: {_some(self.unknown)}"
        if self.untold:
            yield f"{self.untold} layers tell no alpha: they are taken at scale 1, as diffusers and ComfyUI take them"


@dataclass(frozen=True)
class Matched:
    """A file's layers by the names of those of the model."""

    layers: dict[str, Layer]
    left_out: LeftOut


def match(file: LoraFile, module: nn.Module) -> Matched:
    """Find the layers of ``file`` in ``module``, by their names in diffusers or in the original checkpoint.

    NetworkError where none is there, or one has another shape.
    """
    file, known = in_diffusers_names(file, module), _known_layers(module)
    layers: dict[str, Layer] = {}
    unknown: list[str] = []
    elsewhere: list[str] = []
    text = 0
    for layer in file.layers:
        name = known.get(layer.name)
        if layer.owner == "text":
            text += len(layer.keys)
        elif name is None or (file.adapter is not None and not file.adapter.takes(layer.path)):
            elsewhere += layer.keys.values()
        else:
            unknown += (layer.keys[part] for part in sorted(unread(layer.parts)))
            _add(layers, name, layer, file, module)
    untold = sum(not layer.told for layer in layers.values())
    if not layers:
        file.refuse_unread()
        shown = next(iter(file.tensors))
        raise NetworkError(f"{file.path} has nothing for a layer of this model: it holds {shown}", fix=_OTHER_MODEL)
    return Matched(layers, LeftOut(text, tuple(unknown), file.foreign, tuple(elsewhere), untold))


def _add(layers: dict[str, Layer], name: str, layer: Layer, file: LoraFile, module: nn.Module) -> None:
    if not networks(layer.parts):
        return
    if name in layers:
        fix = "get the file again"
        raise NetworkError(f"{file.path} is broken: it holds the layer {name} twice, under two names", fix=fix)
    target = module.get_submodule(name)
    if not _fits(layer, target):
        found = " and ".join(map(shape_text, layer.shapes)) or "a bias or length"
        wanted = shape_text(weight_shape(target))
        raise NetworkError(
            f"{file.path} is for a model of other widths: {name} is {wanted} here, and {found} there", fix=_OTHER_MODEL
        )
    layers[name] = layer


def _fits(layer: Layer, target: nn.Module) -> bool:
    """Whether what a layer of a file adds has the shapes of the model's ``target``."""
    base, parts = weight_shape(target), layer.parts
    shapes = [*layer.shapes, *([parts["set_weight"].shape] if "set_weight" in parts else [])]
    biases = [parts[name].numel() for name in networks(parts).get("bias", ())]
    biases += [parts["lora_up.bias"].numel()] if "lora_up.bias" in parts else []
    lengths = [parts[name].numel() for name in LENGTHS if name in parts]
    return (
        all(_same(shape, base) for shape in shapes)
        and all(number == base[0] for number in biases)
        and all(number in base[:2] for number in lengths)
        and (isinstance(target, _NORMS) <= (networks(parts).keys() <= {"full", "bias"}))
    )


def weight_shape(layer: nn.Module) -> torch.Size:
    """Of a layer's weight as it computes with it: in four bits it is held in another."""
    if isinstance(layer, nn.Linear):
        return torch.Size((layer.out_features, layer.in_features))
    return cast(Tensor, layer.weight).shape


def _same(shape: torch.Size, base: torch.Size) -> bool:
    """Whether a change has a weight's shape; either may be a convolution's, or flat."""
    if shape.numel() != base.numel() or shape[:1] != base[:1]:
        return False
    return len(shape) == 2 or shape == base or shape[:2] == base


def _known_layers(module: nn.Module) -> dict[str, str]:
    """Every layer that a LoRA could be for, by what files call it: as diffusers does, or as the checkpoint."""
    every = {name for name, _ in module.named_modules()}
    layers = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d, *_NORMS)) and isinstance(layer.weight, Tensor)
    ]
    originals = original_names(every)
    by_checkpoint = {originals[name].replace(".", "_"): name for name in layers if name in originals}
    return {**by_checkpoint, **{name.replace(".", "_"): name for name in layers}}


def _some(keys: tuple[str, ...]) -> str:
    return ", ".join(keys[:_SHOWN])
