"""LoRA files as every loader reads them; the only place that knows key names, metadata and hashes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from leco_plugin.errors import NetworkError

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000


@dataclass(frozen=True)
class LoraWeights:
    """One layer: down (rank, in, ...), up (out, rank, ...), and the alpha that scales them by alpha / rank."""

    down: Tensor
    up: Tensor
    alpha: float


def unet_key(layer: str) -> str:
    """Prefix of a UNet layer's keys, from its module path in diffusers' naming."""
    return "lora_unet_" + layer.replace(".", "_")


def lora_tensors(layers: Mapping[str, LoraWeights], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a file, by key; NetworkError where a weight is not finite in ``dtype``."""
    tensors = {}
    for name, weights in layers.items():
        key = unet_key(name)
        tensors[f"{key}.lora_down.weight"] = weights.down
        tensors[f"{key}.lora_up.weight"] = weights.up
        # always written: without it, some loaders scale by 1 instead of alpha / rank
        tensors[f"{key}.alpha"] = torch.tensor(weights.alpha)
    cast = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in tensors.items()}
    for key, tensor in cast.items():
        if not tensor.isfinite().all():
            raise NetworkError(f"{key} is not finite in {dtype}", fix="save as float32, or train with a lower lr")
    return cast


def write_lora(path: Path, layers: Mapping[str, LoraWeights], dtype: str, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, with model hashes over its final tensors.

    Equal arguments give equal bytes: nothing of the clock or the machine goes in.
    """
    data = save(lora_tensors(layers, _DTYPES[dtype]))
    hashes = _hashes(data, metadata)
    write_atomically(path, _with_metadata(data, {**metadata, **hashes}))


def read_lora(path: Path, known: Iterable[str]) -> dict[str, LoraWeights]:
    """The layers of a file in this format, by those of the ``known`` layer names that it has.

    Raises NetworkError where the file cannot be read, or holds a key that belongs to none of the names.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise NetworkError(f"{path} cannot be read as a LoRA: {error}", fix="name a .safetensors file") from None
    layers = {}
    for name in known:
        key = unet_key(name)
        if not tensors.keys() >= {f"{key}.lora_down.weight", f"{key}.lora_up.weight"}:
            continue
        down, up = tensors.pop(f"{key}.lora_down.weight"), tensors.pop(f"{key}.lora_up.weight")
        alpha = tensors.pop(f"{key}.alpha", None)
        layers[name] = LoraWeights(down, up, down.shape[0] if alpha is None else float(alpha))
    if tensors or not layers:
        unknown = next(iter(tensors), "nothing")
        raise NetworkError(f"{path} does not fit this model: it holds {unknown}", fix="use the model it was made for")
    return layers


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and move it there, so that nobody ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
