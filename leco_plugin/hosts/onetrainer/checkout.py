"""A folder of OneTrainer: what is missing there. Imports nothing of the host in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from leco_plugin.errors import PluginError
from leco_plugin.hosts.checkout import check_import

TESTED = "23df3832 of 2026-08-19"
"""The commit of the host that this was last run with."""
_IMPORTS = """\
from pathlib import Path
from leco_plugin.hosts.onetrainer import contract, launcher
contract.enter(Path.cwd())
answer["lacking"] = contract.lacking()
"""


def check(path: Path) -> Iterator[str]:
    """Import the host as a run does; gives versions and what is missing, PluginError where LECO cannot run in it."""
    if not (path / "modules" / "trainer" / "GenericTrainer.py").is_file():
        raise PluginError(f"{path} is not a folder of OneTrainer", fix="give the folder that its 'modules' is in")
    yield f"OneTrainer, commit {_commit(path)} (tested: {TESTED})"
    yield from check_import("OneTrainer", path, _IMPORTS, missing=(), tested=f"commit {TESTED}")
    yield "ready: leco host run onetrainer CONFIG.json PROMPTS.toml"


def _commit(path: Path) -> str:
    """As git's files say it, for a branch or none; there may be no git here."""
    try:
        head = (path / ".git" / "HEAD").read_text("utf-8").strip()
        if head.startswith("ref: "):
            head = (path / ".git" / head.removeprefix("ref: ")).read_text("utf-8").strip()
    except OSError:
        return "unknown"
    return head[:8]
