"""`leco doctor`: what is here and what is missing, on one screen that people can paste into a report."""

from __future__ import annotations

import argparse
import platform
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from leco_plugin import __version__
from leco_plugin.cards import ask_nvidia
from leco_plugin.commands.arguments import Commands
from leco_plugin.commands.codes import OK
from leco_plugin.errors import LecoError, reason
from leco_plugin.streams import write_lines

if TYPE_CHECKING:
    from leco_plugin.contracts import Host

SHOWN = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "numpy", "pydantic")
"""Packages whose versions explain errors."""
NEEDED = (*SHOWN, "pillow", "psutil", "pluggy", "pyyaml", "ruamel.yaml", "toml", "tomlkit", "rich")
"""Packages of which it is said where they are missing."""
EXTRAS: Mapping[str, tuple[Sequence[str], str]] = {
    "memory": (("torchao", "bitsandbytes"), "memory.quantize"),
    "ray": (("ray",), "leco train --ray"),
    "tune": (("optuna", "psycopg[binary]"), "leco tune"),
    "trackers": (("tensorboard", "wandb"), "log_with"),
    "completion": (("argcomplete",), "TAB in a shell"),
}
"""Extras of the package: what each installs, and what for."""
_USERS = {"diffusers, transformers": "leco_plugin.families.load", "peft": "leco_plugin.network.peft_lora"}
"""What imports the parts of these libraries that training needs."""
_CARDS = 3
"""Cards that are shown one by one."""
_WIDTH, _LABEL = 80, 13
_PLACE = re.compile(
    r"""(?<!\w)(["'])[^"']*[\\/]([^"'\\/]*)\1"""  # in quotes, with blanks
    r"""|[^\s"'()\\/]*[\\/](?:[^\s"'()]*[\\/])?([^\s"'()\\/:;,]*)"""
)
_PYTORCH = "pip install torch --index-url, with the address that https://pytorch.org shows"


def add(commands: Commands) -> None:
    """Add `leco doctor`."""
    about = "show versions, device, memory, extras and hosts, and what is missing: to paste into a report"
    commands.add_parser("doctor", help=about, description=about.capitalize()).set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    write_lines(sys.stdout, (line for label, text in _findings() for line in _wrapped(label, text)))
    return OK


def without_places(text: str) -> str:
    """``text`` without paths, in which people's names are: of each, the name of the file alone."""

    def name(found: re.Match[str]) -> str:
        last = found[2] or found[3] or ""
        return last if "." in last else "PATH"

    return _PLACE.sub(name, text.replace(str(Path.home()), "~"))


def _wrapped(label: str, text: str) -> list[str]:
    indent = " " * _LABEL
    return textwrap.wrap(text, _WIDTH, initial_indent=label.ljust(_LABEL), subsequent_indent=indent, max_lines=4)


def _findings() -> Iterator[tuple[str, str]]:
    """(label, text) of each line, in the order in which a reader asks."""
    yield "leco_plugin", f"{__version__}, Python {platform.python_version()}, {_system()}"
    versions = {name: _version(name) for name in NEEDED}
    yield "packages", ", ".join(f"{name} {versions[name]}" for name in SHOWN if versions[name])
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield "MISSING", f"{', '.join(missing)}: pip install {' '.join(missing)}"
    torch, problem = _imported("torch")
    if torch is None:
        yield "BROKEN", f"torch {problem}"
    else:
        for text in _devices(torch):
            yield "device", text
        yield from (("BROKEN", text) for text in _broken())
    if versions["psutil"]:
        import psutil

        memory = psutil.virtual_memory()
        yield "memory", f"{_gib(memory.available)} of {_gib(memory.total)} free, {psutil.cpu_count()} cores"
    for extra in EXTRAS:
        yield f"[{extra}]", _extra(extra)
    yield from [("hosts", "cannot be listed without torch")] if problem else _hosts()


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]} {platform.machine()}"
    # what follows the numbers of a kernel is whatever its builder wrote, but for this
    release = platform.release()
    kernel = release.partition("-")[0] + (" (WSL)" if "microsoft" in release.lower() else "")
    system = f"{platform.system()} {kernel} {platform.machine()}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {system}"
    except (OSError, KeyError):
        return system


def _version(package: str) -> str | None:
    try:
        return metadata.version(package.partition("[")[0])
    except metadata.PackageNotFoundError:
        return None


def _imported(module: str) -> tuple[ModuleType | None, str]:
    """The module, or None and why it cannot be imported."""
    try:
        return import_module(module), ""
    # what shared libraries lack, or versions that do not fit, shows as errors of many kinds
    except Exception as error:  # noqa: BLE001
        return None, f"cannot be imported: {type(error).__name__}: {without_places(reason(error))}"


def _broken() -> Iterator[str]:
    """Libraries that are there and of no use, tried by importing what trains with them."""
    for libraries, module in _USERS.items():
        problem = _imported(module)[1]
        if problem:
            yield f"{libraries} {problem}"
            return


def _devices(torch: Any) -> Iterator[str]:
    """What torch computes on, and what it could compute on but does not."""
    cuda, hip = torch.version.cuda, torch.version.hip
    build = f"ROCm {hip} build" if hip else f"CUDA {cuda} build" if cuda else "CPU build"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for card in range(min(count, _CARDS)):
        yield f"cuda:{card} {_card(torch, card)}"
    if count:
        more = f"{count - _CARDS} more; " if count > _CARDS else ""
        yield f"{more}torch is the {build}"
    elif torch.backends.mps.is_available():
        yield "mps, which shares the memory below"
    else:
        yield f"cpu, {torch.get_num_threads()} threads; torch is the {build}"
        yield from _unused(build, works_with={"NVIDIA": bool(cuda), "AMD": bool(hip)})
        if torch.backends.mps.is_built():
            yield "torch is built for MPS, and cannot use it on this system"


def _unused(build: str, works_with: Mapping[str, bool]) -> Iterator[str]:
    """Cards of this machine that torch, which finds none, does not use, and why."""
    there = {"NVIDIA": _nvidia(), "AMD": "its driver is loaded" if Path("/dev/kfd").exists() else ""}
    for maker, card in there.items():
        if card and works_with[maker]:
            cure = "update its driver to one for this build, or unset CUDA_VISIBLE_DEVICES where it hides the card"
            yield f"torch finds no card, though there is an {maker} card ({card}): {cure}"
        elif card:
            yield f"torch is the {build}, though there is an {maker} card ({card}): {_PYTORCH}"


def _card(torch: Any, number: int) -> str:
    properties = torch.cuda.get_device_properties(number)
    try:
        free = _gib(torch.cuda.mem_get_info(number)[0])
    # another program may hold all of it
    except RuntimeError as error:
        free = f"no answer ({without_places(reason(error))})"
    return f"{properties.name} ({properties.major}.{properties.minor}), {free} of {_gib(properties.total_memory)} free"


def _nvidia() -> str:
    """Name and driver of the first card that NVIDIA's own program sees, or nothing."""
    name, _, driver = (ask_nvidia("name,driver_version", seconds=20) or [""])[0].partition(", ")
    return f"{name}, driver {driver}" if driver else ""


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _extra(extra: str) -> str:
    packages, purpose = EXTRAS[extra]
    versions = {package: _version(package) for package in packages}
    found = [f"{package} {version}" for package, version in versions.items() if version]
    missing = [package for package, version in versions.items() if not version]
    install = [f"{purpose}: pip install {' '.join(missing)}"] if missing else []
    return "; ".join([", ".join(found) or "not installed", *install])


def _hosts() -> Iterator[tuple[str, str]]:
    """Each host's name and state."""
    from leco_plugin.plugins import hosts, plugin_manager

    try:
        found = hosts(plugin_manager()).values()
    # a package that is broken, or somebody else's plugin
    except Exception as error:  # noqa: BLE001
        message = error.problems[0].message if isinstance(error, LecoError) else reason(error)
        yield "hosts", f"cannot be listed: {without_places(message)}"
    else:
        yield from ((host.name, _state(host)) for host in found)


def _state(host: Host) -> str:
    from leco_plugin.hosts.folders import folder_of

    if not hasattr(host, "check"):
        return "installed"
    command = f"leco host {'install' if hasattr(host, 'install') else 'check'} {host.name}"
    try:
        folder = folder_of(host.name, None)
    except LecoError:
        return f"its folder is not known: {command} PATH"
    if not folder.is_dir():
        return f"its folder is no longer there: {command} PATH"
    return f"its folder is known; leco host check {host.name} tries it"
