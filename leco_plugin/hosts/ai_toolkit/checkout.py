"""A folder of ai-toolkit: make LECO known to it, check it, and take LECO out again. Imports nothing of the host."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from leco_plugin.atomic import write_atomically
from leco_plugin.errors import PluginError
from leco_plugin.hosts.checkout import check_import, own_python

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
_IMPORTS = """\
sys.path.insert(0, ".")
from extensions_built_in.sd_trainer.DiffusionTrainer import DiffusionTrainer as Base
hooks = "hook_before_model_load hook_before_train_loop train_single_accumulation update_training_metadata"
answer["lacking"] = [name for name in hooks.split() if not hasattr(Base, name)]
from leco_plugin.hosts.ai_toolkit.process import LecoProcess
"""


def install(path: Path) -> Iterator[str]:
    """Write the shim into the host's `extensions` folder; gives what was done."""
    shim = _shim(path)
    _refuse_foreign(shim)
    _write(shim, SHIM)
    yield f"wrote {shim}; the host's git ignores it"
    yield "jobs with 'job: extension' and 'type: leco' now run there: python run.py JOB.yaml"
    if (own := own_python(path)) and own != Path(sys.prefix):
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
    yield from check_import("ai-toolkit", path, _IMPORTS, missing=_missing(path), tested=f"version {TESTED}")
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


def _missing(path: Path) -> tuple[str, ...]:
    """Packages of the host's requirements that are not installed in this Python; their versions are not compared."""
    lines = [
        line
        for name in ("requirements_base.txt", "requirements.txt")
        if (path / name).is_file()
        for line in (path / name).read_text("utf-8").splitlines()
    ]
    names = [found[0] for line in lines if "://" not in line and (found := re.match(r"[A-Za-z0-9][\w.-]*", line))]
    return tuple(sorted({name for name in names if not _installed(name)}))


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
