"""What the host does not keep of a run, beside its own optimizer.pt."""

from __future__ import annotations

from pathlib import Path

from leco_plugin.engine.state_file import DamagedState
from leco_plugin.errors import ConfigError
from leco_plugin.hosts.kept import Kept

FOLDER = ".leco"
"""Hidden: the host takes whatever begins with a job's name for a LoRA of it."""
Enough = tuple[int, float]
"""Steps at which the goal was reached, and the loss of the last."""


def newest(folder: Path, name: str) -> Path | None:
    """The LoRA of the job ``name`` that was written last; a folder where the host saves in diffusers' format."""
    files = [path for path in folder.glob(f"{name}*") if path.suffix == ".safetensors" or path.is_dir()]
    own = [path for path in files if path.stem == name or path.stem.removeprefix(f"{name}_").isdigit()]
    return max(own, key=lambda path: path.stat().st_ctime_ns, default=None)


def restore(kept: Kept, step: int) -> tuple[Enough | None, str]:
    """Go on from the state after ``step`` steps; gives whether its goal was reached, and a sentence if it is of no use.

    The host goes on from its newest file in any case, and so the walks begin anew then.
    """
    try:
        stored = kept.read()
    except DamagedState as damage:
        return None, f"LECO's walks begin anew: its state {kept.folder}: {damage}"
    except ConfigError as error:
        return None, f"LECO's walks begin anew, since the job has changed: {error.problems[0].message}"
    if stored.step != step:
        return None, f"LECO's walks begin anew: its state is of step {stored.step}, the newest file of step {step}"
    return kept.restore(stored)["enough"], ""
