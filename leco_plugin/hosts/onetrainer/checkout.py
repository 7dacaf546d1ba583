"""A folder of OneTrainer: what is missing there. Imports nothing of the host in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from leco_plugin import __version__
from leco_plugin.errors import PluginError

TESTED = "23df3832 of 2026-08-19"
"""The commit of the host that this was last run with."""
_VENV = "venv"
# the last line of its output is the answer
_IMPORT_HOST = """\
import json, sys
from pathlib import Path
answer = {"versions": [], "lacking": [], "error": ""}
try:
    import torch, diffusers, transformers
    answer["versions"] = [f"{m.__name__} {m.__version__}" for m in (torch, diffusers, transformers)]
    from leco_plugin.hosts.onetrainer import contract, launcher
    contract.enter(Path(sys.argv[1]))
    answer["lacking"] = contract.lacking()
except Exception as error:
    causes = []
    while error:
        causes.append(f"{type(error).__name__}: {error}".strip())
        error = error.__cause__ or error.__context__
    answer["error"] = "; because of ".join(dict.fromkeys(" ".join(cause.split()) for cause in causes))
print("\\n" + json.dumps(answer))
"""


def check(path: Path) -> Iterator[str]:
    """Import the host as a run does; gives versions and what is missing, PluginError where LECO cannot run in it."""
    if not (path / "modules" / "trainer" / "GenericTrainer.py").is_file():
        raise PluginError(f"{path} is not a folder of OneTrainer", fix="give the folder that its 'modules' is in")
    yield f"OneTrainer, commit {_commit(path)} (tested: {TESTED})"
    yield f"leco_plugin {__version__}, Python {sys.version.split()[0]} in {sys.prefix}"
    answer = _import_host(path.absolute())
    yield ", ".join(answer["versions"]) or "torch, diffusers and transformers cannot be imported"
    if answer["error"]:
        own = path.absolute() / _VENV
        here = Path(sys.prefix) == own or not own.is_dir()
        fix = "run its install script" if here else f"run leco in its own environment, {own}"
        raise PluginError(f"OneTrainer cannot be imported here: {answer['error']}", fix=fix)
    if answer["lacking"]:
        raise PluginError(f"this OneTrainer lacks {', '.join(answer['lacking'])}", fix=f"use commit {TESTED}")
    yield "ready: leco host run onetrainer CONFIG.json PROMPTS.toml"


def _import_host(path: Path) -> dict[str, str]:
    done = subprocess.run(  # noqa: S603 - this Python, and a script of ours
        [sys.executable, "-c", _IMPORT_HOST, str(path)], capture_output=True, text=True, check=False
    )
    try:
        answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise PluginError(f"OneTrainer cannot be imported: {last}", fix="start it once without LECO") from None
    return answer


def _commit(path: Path) -> str:
    """As git's files say it, for a branch or none; there may be no git here."""
    try:
        head = (path / ".git" / "HEAD").read_text("utf-8").strip()
        if head.startswith("ref: "):
            head = (path / ".git" / head.removeprefix("ref: ")).read_text("utf-8").strip()
    except OSError:
        return "unknown"
    return head[:8]
