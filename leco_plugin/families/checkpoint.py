"""Checkpoint files: tensors by key, read without running code from the file."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from leco_plugin.errors import ModelError

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


class Checkpoint:
    """The tensors of one file; those of .safetensors are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        if path.suffix.lower() == ".safetensors":
            self._tensors, self.metadata = _open_safetensors(path)
            self.keys = frozenset(self._tensors.keys())
        else:
            self._tensors = _open_pickle(path)
            self.keys = frozenset(self._tensors)

    def __getitem__(self, key: str) -> Tensor:
        """The tensor of a key, on the CPU, as the file holds it."""
        # an opened .safetensors file is asked in another way than a dictionary
        tensor: Tensor = self._tensors[key] if isinstance(self._tensors, dict) else self._tensors.get_tensor(key)
        return tensor

    def under(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Key without the prefix, and tensor, of every key that begins with ``prefix``, one at a time."""
        for key in sorted(self.keys):
            if key.startswith(prefix):
                yield key.removeprefix(prefix), self[key]

    def has(self, prefix: str) -> bool:
        """Whether a key begins with ``prefix``."""
        return any(key.startswith(prefix) for key in self.keys)


def _open_safetensors(path: Path) -> tuple[Any, dict[str, str]]:
    try:
        file: Any = safe_open(path, framework="pt", device="cpu")
        return file, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {_first_line(error)}", fix="get the file again") from error


def _open_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # a zip can stay on the disk until its tensors are used; files of old versions of torch are no zips
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than weights, and reading that would run code from the file",
            fix="get it as .safetensors; or, if you trust it, write torch.load(file, weights_only=False)['state_dict'] "
            "with safetensors.torch.save_file and name the new file",
        ) from error
    # a file that is cut off, or no checkpoint at all, makes torch raise many kinds of errors
    except Exception as error:
        raise ModelError(f"{path} cannot be read: {_first_line(error)}", fix="get the file again") from error
    tree = tree.get("state_dict", tree) if isinstance(tree, dict) else {}
    return {str(key): value for key, value in tree.items() if isinstance(value, Tensor)}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
