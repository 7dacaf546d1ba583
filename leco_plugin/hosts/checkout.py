"""Whether a host can be imported from its folder, tried in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from leco_plugin import __version__
from leco_plugin.errors import PluginError

# the last line of its output is the answer
_SCRIPT = """\
import json, sys
answer = {{"versions": [], "lacking": [], "error": ""}}
try:
    import torch, diffusers, transformers
    answer["versions"] = [f"{{m.__name__}} {{m.__version__}}" for m in (torch, diffusers, transformers)]
{imports}
except Exception as error:
    causes = []
    while error:
        causes.append(f"{{type(error).__name__}}: {{error}}".strip())
        error = error.__cause__ or error.__context__
    answer["error"] = "; because of ".join(dict.fromkeys(" ".join(cause.split()) for cause in causes))
print("\\n" + json.dumps(answer))
"""


def check_import(host: str, path: Path, imports: str, *, missing: tuple[str, ...], tested: str) -> Iterator[str]:
    """Run ``imports`` in the folder ``path`` of ``host``; gives versions, PluginError for what LECO cannot do without.

    ``imports`` may set ``answer["lacking"]``. ``missing``: requirements of the host that are not installed here.
    """
    yield f"leco_plugin {__version__}, Python {sys.version.split()[0]} in {sys.prefix}"
    lines = "\n".join(f"    {line}" for line in imports.splitlines())
    done = subprocess.run(  # noqa: S603 - this Python, and a script of ours
        [sys.executable, "-c", _SCRIPT.format(imports=lines)], cwd=path, capture_output=True, text=True, check=False
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise PluginError(f"{host} cannot be imported: {last}", fix="start it once without LECO") from None
    yield ", ".join(answer["versions"]) or "torch, diffusers and transformers cannot be imported"
    if missing:
        yield f"required by the host and not installed here: {', '.join(missing)}"
    if answer["error"]:
        own = own_python(path)
        here = own is None or own == Path(sys.prefix)
        fix = f"install what {host} requires" if here else f"run leco in the host's own environment, {own}"
        raise PluginError(f"{host} cannot be imported: {answer['error']}", fix=fix)
    if answer["lacking"]:
        raise PluginError(f"this {host} lacks {', '.join(answer['lacking'])}", fix=f"use {tested}")


def own_python(path: Path) -> Path | None:
    """The host's virtual environment, by the names that its instructions and installers use."""
    return next((path.resolve() / name for name in ("venv", ".venv") if (path / name / "pyvenv.cfg").exists()), None)
