"""LoRA files as every loader reads them; the only place that knows key names, metadata and hashes."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from leco_plugin.atomic import write_atomically
from leco_plugin.errors import NetworkError

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000


@dataclass(frozen=True)
class LoraWeights:
    """One layer: down (rank, in, ...), up (out, rank, ...), and the alpha that scales them by alpha / rank."""

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None
    """DoRA's length of each output's weights, (out, 1, ...); None for a plain LoRA."""


def unet_key(layer: str) -> str:
    """Prefix of a UNet layer's keys, from its module path in diffusers' naming."""
    return "lora_unet_" + layer.replace(".", "_")


def lora_tensors(layers: Mapping[str, LoraWeights], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a file, by key; NetworkError where a weight is not finite in ``dtype``."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, weights in layers.items():
        # alpha is always written: without it, some loaders scale by 1 instead of alpha / rank
        alpha = torch.tensor(weights.alpha)
        parts[name] = {"lora_down.weight": weights.down, "lora_up.weight": weights.up, "alpha": alpha}
        if weights.magnitude is not None:
            parts[name]["dora_scale"] = weights.magnitude
    return layer_tensors(parts, dtype)


def layer_tensors(layers: Mapping[str, Mapping[str, Tensor]], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a file, by key, from those of every layer; NetworkError where one is not finite in ``dtype``."""
    tensors = {f"{unet_key(name)}.{part}": tensor for name, parts in layers.items() for part, tensor in parts.items()}
    cast = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in tensors.items()}
    for key, tensor in cast.items():
        if not tensor.isfinite().all():
            raise NetworkError(f"{key} is not finite in {dtype}", fix="save as float32, or train with a lower lr")
    return cast


def write_lora(path: Path, layers: Mapping[str, LoraWeights], dtype: str, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, with model hashes over its final tensors.

    Equal arguments give equal bytes: nothing of the clock or the machine goes in.
    """
    write_tensors(path, lora_tensors(layers, _DTYPES[dtype]), metadata)


def write_layers(
    path: Path, layers: Mapping[str, Mapping[str, Tensor]], dtype: str, metadata: Mapping[str, str]
) -> None:
    """Write the tensors of every layer as ``write_lora`` does."""
    write_tensors(path, layer_tensors(layers, _DTYPES[dtype]), metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as they are, atomically, with model hashes over them."""
    data = save(dict(tensors))
    hashes = _hashes(data, metadata)
    write_atomically(path, _with_metadata(data, {**metadata, **hashes}))


def add_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Add to what a safetensors file says of itself, atomically; its tensors stay byte for byte."""
    data = path.read_bytes()
    found = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]]).get("__metadata__", {})
    write_atomically(path, _with_metadata(data, {**found, **metadata}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file; NetworkError where it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise NetworkError(f"{path} cannot be read as a LoRA: {error}", fix="name a .safetensors file") from None


def read_layers(path: Path, known: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each layer by what follows its key; NetworkError for a key that belongs to none of ``known``."""
    names = {unet_key(name): name for name in known}
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(path).items():
        prefix, _, part = key.partition(".")
        if prefix not in names:
            raise _unfit(path, key)
        layers.setdefault(names[prefix], {})[part] = tensor
    if not layers:
        raise _unfit(path, "nothing")
    return layers


def read_lora(path: Path, known: Iterable[str], *, dora: bool = False) -> dict[str, LoraWeights]:
    """The layers of a LoRA file, or of a DoRA file, by those of the ``known`` layer names that it has.

    Raises NetworkError where the file cannot be read, or holds a key that belongs to none of the names.
    """
    needed = {"lora_down.weight", "lora_up.weight", *(["dora_scale"] if dora else [])}
    layers = {}
    for name, parts in read_layers(path, known).items():
        extra = parts.keys() - needed - {"alpha"}
        if extra or not parts.keys() >= needed:
            raise _unfit(path, f"{unet_key(name)}.{next(iter(extra or parts))}")
        down, alpha = parts["lora_down.weight"], parts.get("alpha")
        number = down.shape[0] if alpha is None else float(alpha)
        layers[name] = LoraWeights(down, parts["lora_up.weight"], number, parts.get("dora_scale"))
    return layers


def _unfit(path: Path, what: str) -> NetworkError:
    return NetworkError(f"{path} does not fit this model: it holds {what}", fix="use the model it was made for")


def _hashes(data: bytes, metadata: Mapping[str, str]) -> dict[str, str]:
    """`sshs_model_hash` and `sshs_legacy_hash` as sd-scripts defines them.

    The first is over all that follows the header. The second is over 64 KiB from byte 1,048,576 of the file as it
    is without the hashes; a shorter file has none, since the hash of nothing is the same for every file.
    """
    unhashed = _with_metadata(data, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    header = 8 + struct.unpack("<Q", unhashed[:8])[0]
    hashes = {"sshs_model_hash": hashlib.sha256(unhashed[header:]).hexdigest()}
    part = unhashed[_LEGACY_START : _LEGACY_START + _LEGACY_LENGTH]
    if part:
        hashes["sshs_legacy_hash"] = hashlib.sha256(part).hexdigest()[:8]
    if "modelspec.hash_sha256" in metadata:
        hashes["modelspec.hash_sha256"] = f"0x{hashes['sshs_model_hash']}"
    return hashes


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """The safetensors file ``data`` with ``metadata`` in sorted order.

    safetensors keeps metadata in a hash map: it would come out in another order every time.
    """
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    ordered = {"__metadata__": dict(sorted(metadata.items())), **header} if metadata else header
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    # tensors begin at a multiple of 8 bytes
    text += b" " * (-len(text) % 8)
    out = io.BytesIO()
    out.write(struct.pack("<Q", len(text)))
    out.write(text)
    out.write(data[8 + size :])
    return out.getvalue()
