"""Checkpoint files: tensors by key, read without running code from the file."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from leco_plugin.config.names import SUFFIXES
from leco_plugin.errors import ModelError

_PICKLES = (b"PK", b"\x80")
_OTHERS = {b"version https://git-lfs": "a Git LFS pointer, not the weights", b"<": "a web page, not the weights"}
"""What is often downloaded instead, by its first bytes."""
_MOST_PICKLED = 8 * 2**20
"""Bytes of a checkpoint's pickle, which names its tensors; a byte of it may become sixty of memory."""
_MOST_DIMENSIONS = 8
_GET_AGAIN = "get the file again"


class Checkpoint:
    """The tensors of one file; those of .safetensors are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        # by what is in it: people rename files
        if _is_pickle(path):
            self._tensors: Any = _open_pickle(path)
        else:
            self._tensors, self.metadata = _open_safetensors(path)
        self.keys = frozenset(self._tensors.keys())

    def __getitem__(self, key: str) -> Tensor:
        """The tensor of a key, on the CPU, as the file holds it; ModelError where it is not plain numbers."""
        try:
            # an opened .safetensors file is asked in another way than a dictionary
            tensor: Tensor = self._tensors[key] if isinstance(self._tensors, dict) else self._tensors.get_tensor(key)
        except (SafetensorError, RuntimeError) as error:
            raise ModelError(f"{self.path} is broken: {key}: {_first_line(error)}", fix=_GET_AGAIN) from error
        odd = _oddness(tensor)
        if odd:
            raise ModelError(f"{self.path} is broken: {key} is {odd}, not plain numbers", fix=_GET_AGAIN)
        return tensor

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def under(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Key without the prefix, and tensor, of every key that begins with ``prefix``, one at a time."""
        for key in sorted(self.keys):
            if key.startswith(prefix):
                yield key.removeprefix(prefix), self[key]

    def has(self, prefix: str) -> bool:
        """Whether a key begins with ``prefix``."""
        return any(key.startswith(prefix) for key in self.keys)


def _is_pickle(path: Path) -> bool:
    """Whether a file is torch's and not safetensors; ModelError where it is not there, or is plainly something else."""
    if not path.exists():
        raise ModelError(f"there is no {path}", fix="check the spelling and the folder it is in")
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(f"{path} is no file of weights, by its ending", fix=f"name a file that ends in {SUFFIXES[0]}")
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", fix=_GET_AGAIN) from None
    if start[8:9] == b"{":
        return False
    for mark, what in _OTHERS.items():
        if start.lstrip().startswith(mark):
            raise ModelError(f"{path} is {what}", fix=_GET_AGAIN)
    pickled, named = start.startswith(_PICKLES), path.suffix.lower() not in SUFFIXES[:2]
    if pickled and not named:
        raise ModelError(f"{path} cannot be read: it is a pickle under another name", fix="call it .ckpt")
    if named and not pickled:
        raise ModelError(f"{path} cannot be read: it is no file that torch wrote", fix=_GET_AGAIN)
    return pickled


def _oddness(tensor: Tensor) -> str:
    """Why ``tensor`` cannot be computed with; empty where it can."""
    if tensor.layout is not torch.strided:
        return "sparse"
    if tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        return "quantized" if tensor.is_quantized else "complex" if tensor.is_complex() else "without data"
    if tensor.ndim > _MOST_DIMENSIONS:
        return f"of {tensor.ndim} dimensions"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"larger than its data ({tensor.numel()} numbers)"
    return ""


def _open_safetensors(path: Path) -> tuple[Any, dict[str, str]]:
    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        return file, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {_first_line(error)}", fix=_GET_AGAIN) from error


def _open_pickle(path: Path) -> dict[str, Tensor]:
    try:
        zipped = zipfile.is_zipfile(path)
        inflated = _inflated(path) if zipped else _long_pickle(path)
        if inflated:
            raise ModelError(f"{path} is refused: {inflated}, more than weights need", fix="get it as .safetensors")
        # a zip can stay on the disk until its tensors are used; files of old versions of torch are no zips
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than weights, and reading that would run code from the file",
            fix="get it as .safetensors; or, if you trust it, write torch.load(file, weights_only=False)['state_dict'] "
            "with safetensors.torch.save_file and name the new file",
        ) from error
    # a file that is cut off, or no checkpoint at all, makes torch raise many kinds of errors
    except Exception as error:
        raise ModelError(f"{path} cannot be read: {_first_line(error)}", fix=_GET_AGAIN) from error
    if isinstance(tree, dict) and "state_dict" in tree:
        tree = tree["state_dict"]
    entries = tree.items() if isinstance(tree, dict) else ()
    return {str(key): value for key, value in entries if isinstance(value, Tensor)}


def _inflated(path: Path) -> str:
    """What a zip unpacks to, where that is more than a checkpoint's may be; torch packs without compression."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    pickled = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if pickled > _MOST_PICKLED:
        return f"its pickle unpacks to {pickled} bytes"
    unpacked = sum(entry.file_size for entry in entries)
    return f"it unpacks to {unpacked} bytes" if unpacked > path.stat().st_size else ""


def _long_pickle(path: Path) -> str:
    """Where the pickles of a file of an old version of torch go on for longer than a checkpoint's."""
    with path.open("rb") as file:
        try:
            # magic number, protocol, system, tensors, keys of the storages
            for _ in range(5):
                for _ in pickletools.genops(file):
                    if file.tell() > _MOST_PICKLED:
                        return f"its pickle has over {_MOST_PICKLED} bytes"
        # no pickle at all: torch says so
        except Exception:  # noqa: BLE001
            return ""
    return ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
