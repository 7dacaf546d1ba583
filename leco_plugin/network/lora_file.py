"""Writing LoRA files that every loader reads: key names, metadata and hashes."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from leco_plugin.atomic import write_atomically
from leco_plugin.errors import NetworkError

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000


def kohya_tensors(layers: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a file for a UNet, by key, from those of every layer by its path in diffusers' naming."""
    return {
        f"lora_unet_{name.replace('.', '_')}.{part}": tensor
        for name, parts in layers.items()
        for part, tensor in parts.items()
    }


def write_lora(path: Path, tensors: Mapping[str, Tensor], dtype: str, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, with model hashes over its final tensors.

    Equal arguments give equal bytes: nothing of the clock or the machine goes in. NetworkError where a number is not
    finite in ``dtype``.
    """
    cast = {key: tensor.detach().to("cpu", _DTYPES[dtype]).contiguous() for key, tensor in tensors.items()}
    for key, tensor in cast.items():
        if not tensor.isfinite().all():
            raise NetworkError(f"{key} is not finite in {dtype}", fix="save as float32, or train with a lower lr")
    write_tensors(path, cast, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as they are, atomically, with model hashes over them."""
    data = save(dict(tensors))
    write_atomically(path, _with_metadata(data, {**metadata, **_hashes(data, metadata)}))


def add_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Add to what a safetensors file says of itself, atomically; its tensors stay byte for byte."""
    data = path.read_bytes()
    found = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]]).get("__metadata__", {})
    write_atomically(path, _with_metadata(data, {**found, **metadata}))


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
