"""`leco inspect`: what is in a LoRA file, and what is wrong with it; nothing of a model is needed."""

from __future__ import annotations

import hashlib
import math
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from leco_plugin.lora.file import Lora
from leco_plugin.network.differences import LENGTHS, is_idle, networks, rank_of, squared_length, unread
from leco_plugin.network.lora_keys import foreign_kind
from leco_plugin.network.lora_read import Layer
from leco_plugin.network.matched import LeftOut
from leco_plugin.streams import write_json, write_lines

_KINDS = {
    "cross-attention": re.compile("attn2"),
    "self-attention": re.compile("attn1"),
    "feed-forward": re.compile("_ff_"),
    "projections": re.compile("proj_in|proj_out"),
    "resnets and resamplers": re.compile("resnets|samplers|_layers_|skip_connection|_op$|_conv$"),
}
_LONG = 200
"""Characters of a metadata value that are shown."""


@dataclass
class Kind:
    """Layers of one kind."""

    layers: int = 0
    idle: int = 0
    """Layers whose change is zero."""
    squared: float = 0.0
    """Squared length of the change of all their weights together, at strength 1."""
    ranks: set[int] = field(default_factory=set)
    alphas: set[float] = field(default_factory=set)
    networks: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)
    """Keys of parts that nothing here reads."""
    untold: int = 0
    """Layers whose scale the file does not tell."""


@dataclass(frozen=True)
class Inspected:
    """A file taken apart."""

    lora: Lora
    kinds: Mapping[str, Kind]
    broken: tuple[str, ...]
    """Keys with numbers that are not finite."""
    hashes: Mapping[str, str]
    """Hashes of the file and of its weights as they are."""

    def findings(self) -> Iterator[str]:
        """What is wrong with the file, a sentence each."""
        if self.broken:
            yield f"broken: {len(self.broken)} tensors hold numbers that are not finite, such as {self.broken[0]}"
        layers = sum(kind.layers for kind in self.kinds.values())
        idle = sum(kind.idle for kind in self.kinds.values())
        if idle == layers:
            yield "it does nothing: the change of every layer is zero, as before the first step of training"
        elif idle:
            yield f"{idle} of {layers} layers do nothing: their change is zero"
        unread = tuple(key for kind in self.kinds.values() for key in kind.unread)
        untold = sum(kind.untold for kind in self.kinds.values())
        yield from LeftOut(unknown=unread, kinds=self.lora.foreign, untold=untold).sentences()
        said = self.lora.metadata.get("sshs_model_hash")
        if said and said != self.hashes.get("sshs_model_hash"):
            yield "sshs_model_hash in its metadata is not that of its weights: they were changed after it was written"


def inspect(path: Path, *, json_output: bool) -> None:
    """Print what is in the file; NetworkError where it cannot be read or holds no layer of a LoRA."""
    found = take_apart(path)
    if json_output:
        write_json(sys.stdout, _fields(found))
    else:
        write_lines(sys.stdout, _lines(found))


def take_apart(path: Path) -> Inspected:
    """Read a file and sort its layers by kind; a pickle is read as weights only."""
    lora = Lora.read(path, finite=False)
    broken = tuple(key for key, tensor in lora.tensors.items() if not tensor.float().isfinite().all())
    kinds: dict[str, Kind] = {}
    for layer in lora.layers:
        _add(kinds.setdefault(_kind(layer), Kind()), layer)
    if not any(kind.networks for kind in kinds.values()):
        lora.refuse_unread()
    return Inspected(lora, dict(sorted(kinds.items())), broken, _hashes(lora.path))


def _add(kind: Kind, layer: Layer) -> None:
    parts = {name: tensor.float() for name, tensor in layer.parts.items()}
    rank, found, left = rank_of(parts), networks(parts), sorted(unread(parts))
    kind.layers += 1
    kind.ranks |= set() if rank is None else {rank}
    kind.alphas |= set() if layer.alpha is None else {round(layer.alpha, 4)}
    kind.networks |= {*found, *(foreign_kind(part) for part in left)} - {""}
    kind.networks |= {"DoRA"} if any(name in parts for name in LENGTHS) else set()
    kind.unread += (layer.keys[part] for part in left)
    kind.untold += not layer.told
    if found and is_idle(parts):
        kind.idle += 1
    else:
        kind.squared += squared_length(parts, layer.scale)


def _kind(layer: Layer) -> str:
    if layer.owner == "text":
        return "text encoder"
    return next((name for name, pattern in _KINDS.items() if pattern.search(layer.name)), "other")


def _hashes(path: Path) -> dict[str, str]:
    """The file's sha256, by which Civitai finds it, and that of its weights alone, as sd-scripts defines it."""
    data = path.read_bytes()
    hashes = {"sha256": hashlib.sha256(data).hexdigest()}
    if path.suffix.lower() == ".safetensors":
        header = 8 + struct.unpack("<Q", data[:8])[0]
        hashes["sshs_model_hash"] = hashlib.sha256(data[header:]).hexdigest()
    return hashes


def _lines(found: Inspected) -> Iterator[str]:
    metadata = found.lora.metadata
    yield str(found.lora.path)
    yield from (f"  {finding}" for finding in found.findings())
    for name, kind in found.kinds.items():
        yield f"  {name}: {_words(kind)}"
    yield f"  number formats: {_counted(found.lora)}"
    yield f"  range: {metadata.get('ss_leco_strength_range', 'not known; leco calibrate finds it')}"
    yield from (f"  {name}: {value}" for name, value in found.hashes.items())
    yield f"metadata{'' if metadata else ': none'}"
    for name, value in sorted(metadata.items()):
        yield f"  {name}: {value if len(value) <= _LONG else f'{value[:_LONG]}... ({len(value)} characters)'}"


def _words(kind: Kind) -> str:
    networks = " and ".join(sorted(kind.networks)) or "unknown"
    ranks, alphas = (
        " and ".join(f"{value:g}" for value in sorted(values)) or "none" for values in (kind.ranks, kind.alphas)
    )
    return f"{kind.layers} layers, {networks}, rank {ranks}, alpha {alphas}, norm of the change {kind.squared**0.5:.4g}"


def _counted(lora: Lora) -> str:
    names = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in lora.tensors.values())
    return ", ".join(f"{name} ({count})" for name, count in names.most_common())


def _fields(found: Inspected) -> dict[str, object]:
    return {
        "file": str(found.lora.path),
        "findings": list(found.findings()),
        "does_nothing": all(kind.idle == kind.layers for kind in found.kinds.values()),
        "not_finite": list(found.broken),
        "layers": {name: _kind_fields(kind) for name, kind in found.kinds.items()},
        "range": found.lora.metadata.get("ss_leco_strength_range"),
        "hashes": dict(found.hashes),
        "metadata": dict(found.lora.metadata),
    }


def _kind_fields(kind: Kind) -> dict[str, object]:
    norm = kind.squared**0.5
    return {
        "layers": kind.layers,
        "idle": kind.idle,
        "networks": sorted(kind.networks),
        "ranks": sorted(kind.ranks),
        # JSON has no nan and no infinity
        "alphas": sorted(alpha for alpha in kind.alphas if math.isfinite(alpha)),
        "norm": norm if math.isfinite(norm) else None,
    }
