"""Reading LoRA files of any trainer, or the folder that PEFT or diffusers wrote: their layers, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from leco_plugin.checkpoint import Checkpoint
from leco_plugin.config.recognise import Kind, expect
from leco_plugin.errors import ModelError, NetworkError
from leco_plugin.network.adapter import METADATA, Adapter, adapter_beside, adapter_in
from leco_plugin.network.differences import Parts, bias_changes, is_factor, networks, rank_of, weight_changes
from leco_plugin.network.lora_keys import Owner, by_layer, foreign_kind

_NAMES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin")
"""What PEFT and diffusers call the file in a folder of theirs."""
_MOST_NUMBERS = 2**28
"""Of a layer; the largest models' largest have a quarter more than 2**27."""
GET_AGAIN = "get the file again, or train it again"


@dataclass(frozen=True)
class Layer:
    """The tensors for one layer of a model."""

    owner: Owner
    path: str
    """As in the file, without the prefix of its format."""
    keys: Mapping[str, str]
    """The file's keys, by what each is."""
    parts: Parts
    scale: float
    """What a factored change is multiplied with at strength 1; 1 where the file does not tell."""
    told: bool
    """Whether the file tells a scale; layers that are not factored need none."""
    shapes: tuple[torch.Size, ...]
    """Of the changes of its weight."""

    @property
    def name(self) -> str:
        """Its path with ``_`` for every dot."""
        return self.path.replace(".", "_")

    @property
    def alpha(self) -> float | None:
        """The alpha that its scale comes from; None where none is told."""
        rank = rank_of(self.parts)
        return None if not self.told or rank is None else self.scale * rank


@dataclass(frozen=True)
class LoraFile:
    """One file; a pickle is read as weights only."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    adapter: Adapter | None = None
    """PEFT's config, beside the file or in its metadata."""

    @classmethod
    def read(cls, path: Path, *, finite: bool = True) -> Self:
        """Read a file or folder; NetworkError where it cannot be, or with ``finite`` where a weight is not.

        ConfigError, with the right command, where it is a settings file.
        """
        expect(path, Kind.LORA, *([Kind.RUN] if path.is_dir() else []))
        path = _file_in(path) if path.is_dir() else path
        try:
            file = Checkpoint(path)
            tensors = {key: file[key] for key in sorted(file.keys)}
        except ModelError as error:
            raise NetworkError(error.problems) from None
        for key, tensor in tensors.items() if finite else ():
            if not tensor.float().isfinite().all():
                raise NetworkError(
                    f"{path} is broken: {key} holds numbers that are not finite",
                    fix="train again with a lower lr, or save as float32",
                )
        adapter = adapter_in(path, file.metadata)
        # a rewritten file has its scale in its weights
        if adapter is None and _is_peft(path, tensors) and "ss_leco_calibrated" not in file.metadata:
            adapter = adapter_beside(path)
        return cls(path, tensors, file.metadata, adapter)

    @property
    def scale_beside(self) -> bool:
        """Whether its scale stands in a config beside it."""
        return self.adapter is not None and METADATA not in self.metadata

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Its layers, those of text encoders too; NetworkError where the parts of one do not fit each other."""
        return tuple(self._layer(owner, path, keys) for (owner, path), keys in by_layer(self.tensors).items())

    @cached_property
    def foreign(self) -> tuple[str, ...]:
        """The kinds of networks in it that are not read here."""
        return tuple(sorted({kind for layer in self.layers for part in layer.keys if (kind := foreign_kind(part))}))

    def refuse_unread(self) -> None:
        """Raise NetworkError where nothing of it is read here, whatever model it is for."""
        if any(networks(layer.parts) for layer in self.layers):
            return
        if self.foreign:
            what = f"{self.path} is {' and '.join(self.foreign)} ({len(self.tensors)} tensors), which is not read here"
            raise NetworkError(what, fix="use a LoRA, LoHa, LoKr or full difference")
        single = next((key for layer in self.layers for part, key in layer.keys.items() if is_factor(part)), None)
        if single:
            raise NetworkError(f"{self.path} is broken: {single} stands without its other factor", fix=GET_AGAIN)
        held = next(iter(self.tensors), "no tensor at all")
        raise NetworkError(f"{self.path} is no LoRA: it holds {held}", fix="name a LoRA file")

    def _layer(self, owner: Owner, path: str, keys: Mapping[str, str]) -> Layer:
        parts = {part: self.tensors[key] for part, key in keys.items()}
        try:
            shapes = _change_shapes(parts)
        except ValueError as problem:
            where = f"{self.path} is broken: {path or next(iter(keys.values()))}"
            raise NetworkError(f"{where}: {problem}", fix=GET_AGAIN) from None
        scale = self._scale(path, parts)
        return Layer(owner, path, keys, parts, 1.0 if scale is None else scale, scale is not None, shapes)

    def _scale(self, path: str, parts: Parts) -> float | None:
        rank, factored = rank_of(parts), networks(parts).keys() & {"LoRA", "LoHa", "LoKr"}
        if not factored:
            return 1.0
        if "alpha" in parts:
            # LyCORIS scales no LoKr layer of two whole factors
            return 1.0 if rank is None else float(parts["alpha"]) / rank
        if self.adapter is None:
            return None
        said = self.adapter.rank(path)
        if said is not None and rank is not None and said != rank:
            raise NetworkError(
                f"{self.path} is broken: {path} has rank {rank} where its config says {said}", fix=GET_AGAIN
            )
        return self.adapter.scale(path, rank or said or 8)


def _file_in(folder: Path) -> Path:
    """The LoRA in a folder; NetworkError where there is none, or more than one."""
    known = [folder / name for name in _NAMES if (folder / name).is_file()]
    found = known[:1] or [path for path in sorted(folder.glob("*.safetensors")) if path.is_file()]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} .safetensors files, such as {found[0].name}" if found else "no LoRA"
    raise NetworkError(f"{folder} is a folder with {what}", fix=f"name the file, or a folder that holds {_NAMES[0]}")


def _is_peft(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    return path.stem == Path(_NAMES[0]).stem or any(key.startswith("base_model.model.") for key in tensors)


def _change_shapes(parts: Parts) -> tuple[torch.Size, ...]:
    """Shapes of the changes of a layer's weight, with nothing computed.

    ValueError says what is wrong with the tensors by themselves, whatever model they are for.
    """
    empty = next((name for name, tensor in parts.items() if tensor.numel() == 0), None)
    if empty is not None:
        raise ValueError(f"{empty} is empty (rank 0)")
    if "alpha" in parts and parts["alpha"].numel() != 1:
        raise ValueError(f"alpha is {parts['alpha'].numel()} numbers, not one")
    shadows = {name: torch.empty(tensor.shape, device="meta") for name, tensor in parts.items()}
    try:
        list(bias_changes(shadows, 1.0))
        shapes = tuple(change.shape for change in weight_changes(shadows, 1.0))
        fit = len({shape.numel() for shape in shapes}) < 2
    except (RuntimeError, IndexError, ValueError):
        fit, shapes = False, ()
    if not fit:
        listed = ", ".join(f"{name} {shape_text(tensor.shape)}" for name, tensor in parts.items() if tensor.ndim)
        raise ValueError(f"its parts do not fit each other: {listed}")
    if any(shape.numel() > _MOST_NUMBERS for shape in shapes):
        raise ValueError("it claims more numbers than any layer has")
    return shapes


def shape_text(shape: torch.Size) -> str:
    """Such as 4 x 320."""
    return " x ".join(map(str, shape))
