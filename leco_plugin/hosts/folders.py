"""Where a user's hosts are, so that their folders are named once; and how command lines name them."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from leco_plugin.atomic import write_atomically
from leco_plugin.errors import ConfigError, PluginError


class HostParser(argparse.ArgumentParser):
    """Reads what stands after `leco host ACTION HOST`; ConfigError for what cannot be meant."""

    def __init__(self, action: str, host: str, about: str) -> None:
        super().__init__(prog=f"leco host {action} {host}", description=about, allow_abbrev=False)

    def add_root(self) -> None:
        """Add the flag that names the host's folder."""
        self.add_argument("--root", type=Path, metavar="DIR", help="its folder (default: the one last checked or used)")

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise ConfigError(message, fix=f"{self.prog} --help")


def folder_of(host: str, given: Path | None) -> Path:
    """The host's folder, absolute: ``given``, or else the one remembered; PluginError where there is neither."""
    known = given or _remembered().get(host)
    if known is None:
        raise PluginError(f"the folder of {host} is not known yet", fix=f"name it once: leco host check {host} PATH")
    return Path(known).expanduser().absolute()


def is_remembered(host: str) -> bool:
    """Whether a folder of the host is known."""
    return host in _remembered()


def remember(host: str, folder: Path) -> None:
    """Keep the folder for the next time; that it cannot be kept is no reason to stop."""
    known = {**_remembered(), host: str(folder)}
    with suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_file(), (json.dumps(known, indent=1) + "\n").encode())


def _remembered() -> dict[str, str]:
    try:
        found = json.loads(_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: path for name, path in found.items() if isinstance(path, str)} if isinstance(found, dict) else {}


def _file() -> Path:
    """As each system keeps settings of programs."""
    base = os.environ.get("APPDATA") if os.name == "nt" else os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "leco" / "hosts.json"
