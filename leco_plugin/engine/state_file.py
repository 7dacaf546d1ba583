"""A state on disk: a folder of JSON and safetensors that is complete or recognised as not; nothing in it is run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from leco_plugin.atomic import umask
from leco_plugin.core.state import StateTree
from leco_plugin.errors import TrainingError, reason

FORMAT = 2
TREE, TENSORS, MANIFEST = "state.json", "tensors.safetensors", "manifest.json"
_FIX = "see that the disk has room, or set another training_folder"


class DamagedState(Exception):  # noqa: N818 - not the end of anything: the state before it is used
    """A state that was cut off in writing, or has changed since; says how."""


@dataclass(frozen=True)
class Label:
    """What a state says of itself before it is read."""

    step: int
    """Optimizer steps that were done."""
    name: str = ""
    """The run's name."""
    run: str = ""
    """Which of the runs of that name."""


@dataclass(frozen=True)
class Stored:
    """What a state's folder holds."""

    label: Label
    described: Mapping[str, str]
    """The run that it is of: what a run that goes on with it must share."""
    tree: StateTree

    @property
    def step(self) -> int:
        """Optimizer steps that were done."""
        return self.label.step


def write_state(folder: Path, stored: Stored) -> None:
    """Write ``folder`` so that it is there as a whole or not at all.

    Raises TrainingError where it cannot be written, or holds what is neither a plain value nor a tensor.
    """
    tensors: dict[str, Tensor] = {}
    tree = {"described": stored.described, "tree": _packed(stored.tree, tensors, "state")}
    files = {TREE: json.dumps(tree).encode(), TENSORS: save(tensors)}
    manifest = {"format": FORMAT, **asdict(stored.label), "sha256": {name: _sum(data) for name, data in files.items()}}
    sealed = {**manifest, "seal": _seal(manifest)}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            # mkdtemp makes folders that only their owner can read
            beside.chmod(0o777 & ~umask())
            # the manifest comes last: without it, what is there counts as cut off
            for name, data in {**files, MANIFEST: json.dumps(sealed).encode()}.items():
                _write(beside / name, data)
            _replace(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise TrainingError(f"cannot write the state {folder}: {error.strerror}", fix=_FIX) from error


def read_label(folder: Path) -> Label:
    """What the state in ``folder`` says of itself; DamagedState where that is not what was written."""
    return _manifest(folder)[0]


def read_state(folder: Path) -> Stored:
    """What ``folder`` holds; DamagedState where that is not all that was written."""
    label, sums = _manifest(folder)
    with _damage_named():
        files = {name: (folder / name).read_bytes() for name in (TREE, TENSORS)}
        for name, data in files.items():
            if _sum(data) != sums[name]:
                raise DamagedState(f"{name} is not what was written")
        tree = json.loads(files[TREE])
        return Stored(label, dict(tree["described"]), _unpacked(tree["tree"], load(files[TENSORS])))


def _manifest(folder: Path) -> tuple[Label, Mapping[str, str]]:
    """The label, and the checksums of the files."""
    with _damage_named():
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise DamagedState(f"its format is {manifest['format']}, not {FORMAT}")
        if manifest.pop("seal") != _seal(manifest):
            raise DamagedState(f"{MANIFEST} is not what was written")
        return Label(int(manifest["step"]), str(manifest["name"]), str(manifest["run"])), manifest["sha256"]


@contextmanager
def _damage_named() -> Iterator[None]:
    """Block in which whatever a file does to its reader is a DamagedState."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedState(f"{Path(error.filename).name} is missing") from None
    except OSError as error:
        raise DamagedState(f"cannot be read: {error.strerror}") from None
    # RecursionError: nested too deeply; OverflowError: 1e999 is no number of steps
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
        SafetensorError,
    ) as error:
        raise DamagedState(f"is not readable: {reason(error)}") from None


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _seal(manifest: Mapping[str, object]) -> str:
    return _sum(json.dumps(manifest, sort_keys=True).encode())


def _packed(tree: StateTree, tensors: dict[str, Tensor], place: str) -> object:
    """``tree`` as JSON: containers are tagged with their kind, and tensors stand in ``tensors`` by number."""
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        # a copy: safetensors refuses tensors that share memory
        tensors[name] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(tree, Mapping):
        items = cast(Mapping[str | int, StateTree], tree).items()
        return {"dict": [[key, _packed(value, tensors, f"{place}.{key}")] for key, value in items]}
    if isinstance(tree, (list, tuple)):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [_packed(value, tensors, f"{place}[{index}]") for index, value in enumerate(tree)]}
    raise TrainingError(
        f"{place} is a {type(tree).__name__}, which a state cannot keep",
        fix="switch save_state off, or use another optimizer or plugin",
    )


def _unpacked(packed: object, tensors: Mapping[str, Tensor]) -> StateTree:
    if packed is None or isinstance(packed, (bool, int, float, str)):
        return packed
    ((kind, content),) = cast(Mapping[str, object], packed).items()
    if kind == "tensor":
        return tensors[cast(str, content)]
    if kind == "dict":
        return {key: _unpacked(value, tensors) for key, value in cast(Sequence[tuple[str, object]], content)}
    values = [_unpacked(value, tensors) for value in cast(Sequence[object], content)]
    return tuple(values) if kind == "tuple" else values


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(new: Path, folder: Path) -> None:
    _sync(new)
    if folder.exists():
        # a folder cannot be moved over another; until the next line, the state before this one is the newest
        old = new.with_name(f"{new.name}.old")
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(folder)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    # what makes a rename last; Windows has no such thing for folders
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
