"""What hosts do not keep of a run, in a state beside their own: walks, figures, and random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from leco_plugin.core.state import Stateful, StateTree
from leco_plugin.core.walk import Walks
from leco_plugin.engine.report import Meter
from leco_plugin.engine.same_run import refuse_other_run
from leco_plugin.engine.state_file import Label, Stored, read_state, write_state


@dataclass(frozen=True)
class Kept:
    """The parts of a run that are kept, and the folder that they are kept in."""

    folder: Path
    described: Mapping[str, str]
    """What a run that goes on must share with the one that wrote the state."""
    walks: Walks
    meter: Meter
    device: torch.device

    def write(self, step: int, **more: StateTree) -> None:
        """Write the state after ``step`` steps, with what else the host wants to find again."""
        tree = {
            **more,
            "walks": cast(Stateful, self.walks).state(),
            "meter": self.meter.state(),
            # dropout draws them, and hosts do not keep them
            "random": [torch.get_rng_state(), *([torch.cuda.get_rng_state(self.device)] if self._cuda else [])],
        }
        write_state(self.folder, Stored(Label(step), dict(self.described), tree))

    def read(self) -> Stored:
        """The state that is there; DamagedState where it is none, ConfigError where it is of another run."""
        stored = read_state(self.folder)
        refuse_other_run(stored, self.described)
        return stored

    def restore(self, stored: Stored) -> Mapping[str, Any]:
        """Go on from there; gives all that was written."""
        tree = cast(Mapping[str, Any], stored.tree)
        cast(Stateful, self.walks).restore(tree["walks"])
        self.meter.restore(tree["meter"])
        cpu, *devices = tree["random"]
        torch.set_rng_state(cpu)
        if devices and self._cuda:
            torch.cuda.set_rng_state(devices[0], self.device)
        return tree

    @property
    def _cuda(self) -> bool:
        return self.device.type == "cuda"
