"""What the host does not keep of a run, beside its own optimizer.pt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import device

from leco_plugin.core.state import Stateful
from leco_plugin.core.walk import Walks
from leco_plugin.engine.report import Meter
from leco_plugin.engine.same_run import describe_parts, refuse_other_run
from leco_plugin.engine.state_file import DamagedState, Label, Stored, read_state, write_state
from leco_plugin.errors import ConfigError
from leco_plugin.hosts.ai_toolkit.settings import HostJob
from leco_plugin.hosts.random_state import random_state, restore_random

FOLDER = ".leco"
"""Hidden: the host takes whatever begins with a job's name for a LoRA of it."""


def newest(folder: Path, name: str) -> Path | None:
    """The LoRA of the job ``name`` that was written last; a folder where the host saves in diffusers' format."""
    files = [path for path in folder.glob(f"{name}*") if path.suffix == ".safetensors" or path.is_dir()]
    own = [path for path in files if path.stem == name or path.stem.removeprefix(f"{name}_").isdigit()]
    return max(own, key=lambda path: path.stat().st_ctime_ns, default=None)


Enough = tuple[int, float]
"""Steps at which the goal was reached, and the loss of the last."""


def store(folder: Path, job: HostJob, step: int, walks: Walks, meter: Meter, enough: Enough | None, on: device) -> None:
    """Write the state after ``step`` steps, ``enough`` where the goal is reached."""
    tree = {
        "walks": cast(Stateful, walks).state(),
        "meter": meter.state(),
        "random": random_state(on),
        "enough": enough,
    }
    write_state(folder / FOLDER, Stored(Label(step), _described(job), tree))


def restore(folder: Path, job: HostJob, step: int, walks: Walks, meter: Meter, on: device) -> tuple[Enough | None, str]:
    """Go on from the state after ``step`` steps; gives whether its goal was reached, and a sentence if it is of no use.

    The host goes on from its newest file in any case, and so the walks begin anew then.
    """
    try:
        stored = read_state(folder / FOLDER)
        refuse_other_run(stored, _described(job))
    except DamagedState as damage:
        return None, f"LECO's walks begin anew: its state {folder / FOLDER}: {damage}"
    except ConfigError as error:
        return None, f"LECO's walks begin anew, since the job has changed: {error.problems[0].message}"
    if stored.step != step:
        return None, f"LECO's walks begin anew: its state is of step {stored.step}, the newest file of step {step}"
    tree = cast(Mapping[str, Any], stored.tree)
    cast(Stateful, walks).restore(tree["walks"])
    meter.restore(tree["meter"])
    restore_random(tree["random"], on)
    return tree["enough"], ""


def _described(job: HostJob) -> dict[str, str]:
    return describe_parts(job.section.pairs, job.section.leco, {**vars(job.step), "noise_scheduler": job.sampler})
