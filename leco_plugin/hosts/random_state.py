"""torch's random numbers as a state: what a host does not keep of them, such as those that dropout draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def random_state(device: torch.device) -> list[Tensor]:
    """Of the CPU, and of ``device`` where that is CUDA."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def restore_random(state: Sequence[Tensor], device: torch.device) -> None:
    """Draw on from there."""
    cpu, *devices = state
    torch.set_rng_state(cpu)
    if devices and device.type == "cuda":
        torch.cuda.set_rng_state(devices[0], device)
