"""Where a user's hosts are, so that their folders need not be named again and again."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from leco_plugin.atomic import write_atomically
from leco_plugin.errors import PluginError


def folder_of(host: str, given: Path | None) -> Path:
    """The host's folder, absolute: ``given``, or else the one remembered; PluginError where there is neither."""
    known = given or _remembered().get(host)
    if known is None:
        raise PluginError(f"the folder of {host} is not known yet", fix=f"name it once: leco host check {host} PATH")
    return Path(known).expanduser().absolute()


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
