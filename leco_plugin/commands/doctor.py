"""`leco doctor`: what is installed and at hand, in one screen to paste into a report; no paths and no names."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec

from leco_plugin import __version__
from leco_plugin.commands.arguments import Commands
from leco_plugin.commands.codes import OK
from leco_plugin.streams import write_lines

_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")
_EXTRAS = {
    "memory": ("torchao", "bitsandbytes"),
    "trackers": ("tensorboard", "wandb"),
    "ray": ("ray",),
    "tune": ("optuna",),
}
_GIB = 2**30


def add(commands: Commands) -> None:
    """Add `leco doctor`."""
    doctor = commands.add_parser("doctor", help="say which versions, device, extras and hosts are there, for a report")
    doctor.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    write_lines(sys.stdout, [f"{name + ':':14}{text}" for name, text in _facts()])
    return OK


def _facts() -> Iterator[tuple[str, str]]:
    yield "leco_plugin", __version__
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in _LIBRARIES:
        yield name, _version(name) or "missing: install leco_plugin again"
    yield from _devices()
    for extra, packages in _EXTRAS.items():
        there = {name: _version(name) for name in packages}
        said = ", ".join(f"{name} {version or 'missing'}" for name, version in there.items())
        yield f"[{extra}]", said
    yield "hosts", ", ".join(_hosts())


def _version(name: str) -> str:
    """Its version; empty where it is not installed."""
    if find_spec(name) is None:
        return ""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _devices() -> Iterator[tuple[str, str]]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    yield "memory", f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free, {psutil.cpu_count()} cores"
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        yield (
            f"cuda:{number}",
            (
                f"{torch.cuda.get_device_name(number)}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free, "
                f"CUDA {torch.version.cuda}"
            ),
        )
    if torch.backends.mps.is_available():
        yield "mps", "there"
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without it"
        yield "cuda", f"none: {built}"


def _hosts() -> Iterator[str]:
    from leco_plugin.hosts.folders import is_remembered
    from leco_plugin.plugins import hosts, plugin_manager

    for name in hosts(plugin_manager()):
        installed = name == "builtin" or is_remembered(name)
        yield name if installed else f"{name} (not set up: leco host install or check {name} PATH)"
