"""A folder of ai-toolkit: make LECO known to it, check it, and take LECO out again. Imports nothing of the host."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from leco_plugin import __version__
from leco_plugin.atomic import write_atomically
from leco_plugin.errors import PluginError

TESTED = "0.12.26"
"""The version of the host that this was last run with."""
SHIM = """\
# written by `leco host install ai-toolkit`; `leco host remove ai-toolkit` deletes it
try:
    from leco_plugin.hosts.ai_toolkit import AI_TOOLKIT_EXTENSIONS
except Exception as error:  # without leco_plugin, all other jobs go on as before
    print(f"LECO is not available: {error}")
    AI_TOOLKIT_EXTENSIONS = []
"""
_MARK = SHIM.splitlines()[0]
# run in the host's folder; the last line of its output is the answer
_IMPORT_HOST = """\
import json, sys
sys.path.insert(0, ".")
answer = {"versions": [], "lacking": [], "error": []}
try:
    import torch, diffusers, transformers
    answer["versions"] = [f"{m.__name__} {m.__version__}" for m in (torch, diffusers, transformers)]
    from extensions_built_in.sd_trainer.DiffusionTrainer import DiffusionTrainer as Base
    hooks = "hook_before_model_load hook_before_train_loop train_single_accumulation update_training_metadata"
    answer["lacking"] = [name for name in hooks.split() if not hasattr(Base, name)]
    from leco_plugin.hosts.ai_toolkit.process import LecoProcess
except Exception as error:
    answer["error"] = [f"{type(error).__name__}: {error}"]
print("\\n" + json.dumps(answer))
"""


def install(path: Path) -> Iterator[str]:
    """Write the shim into the host's `extensions` folder; gives what was done."""
    shim = _shim(path)
    _refuse_foreign(shim)
    _write(shim, SHIM)
    yield f"wrote {shim}; the host's git ignores it"
    yield "jobs with 'job: extension' and 'type: leco' now run there: python run.py JOB.yaml"
    if (own := _own_python(path)) and own != Path(sys.prefix):
        yield f"the host has an environment of its own: leco_plugin has to be installed in {own}, too"


def remove(path: Path) -> Iterator[str]:
    """Delete the shim; gives what was done."""
    shim = _shim(path)
    _refuse_foreign(shim)
    if not shim.exists():
        yield f"nothing to do: there is no {shim}"
        return
    shim.unlink()
    yield f"deleted {shim}"


def check(path: Path) -> Iterator[str]:
    """Import the host as its jobs do; gives versions and what is missing, PluginError where LECO cannot run in it."""
    shim = _shim(path)
    found = _version(path)
    yield f"ai-toolkit {found}" + ("" if found == TESTED else f" (tested: {TESTED})")
    yield f"leco_plugin {__version__}, Python {sys.version.split()[0]} in {sys.prefix}"
    answer = _import_host(path)
    yield ", ".join(answer["versions"]) or "torch, diffusers and transformers cannot be imported"
    missing = _missing(path)
    if missing:
        yield f"required by the host and not installed here: {', '.join(missing)}"
    if answer["error"]:
        own = _own_python(path)
        fix = f"run leco in the host's own environment, {own}" if own else "install the host's requirements.txt"
        raise PluginError(f"ai-toolkit cannot be imported: {answer['error'][0]}", fix=fix)
    if answer["lacking"]:
        raise PluginError(f"this ai-toolkit lacks {', '.join(answer['lacking'])}", fix=f"use version {TESTED}")
    if not shim.exists():
        raise PluginError("LECO is not installed there", fix=f"leco host install ai-toolkit {path}")
    yield "LECO is installed there and can be imported"


def _shim(path: Path) -> Path:
    """Where the shim goes; PluginError where ``path`` is not the host."""
    if not (path / "run.py").is_file() or not (path / "extensions_built_in").is_dir():
        raise PluginError(f"{path} is not a folder of ai-toolkit", fix="give the folder that its run.py is in")
    return path / "extensions" / "leco.py"


def _refuse_foreign(shim: Path) -> None:
    package = shim.with_suffix("")
    if package.exists():
        raise PluginError(f"{package} is in the way", fix="move it out of the extensions folder")
    if shim.exists() and not shim.read_text("utf-8", "replace").startswith(_MARK):
        raise PluginError(f"{shim} was not written by leco", fix="move it out of the extensions folder")


def _write(shim: Path, text: str) -> None:
    try:
        write_atomically(shim, text.encode())
    except OSError as error:
        raise PluginError(f"cannot write {shim}: {error.strerror}", fix="check who owns that folder") from None


def _version(path: Path) -> str:
    try:
        found = re.search(r"VERSION\s*=\s*[\"']([^\"']+)", (path / "version.py").read_text("utf-8"))
    except OSError:
        found = None
    return found[1] if found else "of unknown version"


def _own_python(path: Path) -> Path | None:
    """The host's virtual environment, by the names that its instructions and installers use."""
    return next((path.resolve() / name for name in ("venv", ".venv") if (path / name / "pyvenv.cfg").exists()), None)


def _import_host(path: Path) -> dict[str, list[str]]:
    done = subprocess.run(  # noqa: S603 - this Python, and a script of ours
        [sys.executable, "-c", _IMPORT_HOST], cwd=path, capture_output=True, text=True, check=False
    )
    try:
        answer: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise PluginError(f"ai-toolkit cannot be imported: {last}", fix="start it once without LECO") from None
    return answer


def _missing(path: Path) -> list[str]:
    """Packages of the host's requirements that are not installed in this Python; their versions are not compared."""
    lines = [
        line
        for name in ("requirements_base.txt", "requirements.txt")
        if (path / name).is_file()
        for line in (path / name).read_text("utf-8").splitlines()
    ]
    names = [found[0] for line in lines if "://" not in line and (found := re.match(r"[A-Za-z0-9][\w.-]*", line))]
    return sorted({name for name in names if not _installed(name)})


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
