"""Where a model's weights are: off the device while text encoders need the room, on it otherwise."""

from __future__ import annotations

import torch
from torch import nn


class Placement:
    """A module and its device.

    One that is there from the beginning stays, and so does one that ``stays`` says of that it must not be moved whole.
    """

    def __init__(self, module: nn.Module, device: torch.device, *, stays: bool = False) -> None:
        self._module, self.device = module, device
        there = next((parameter.device for parameter in module.parameters()), device)
        self._stays = stays or there.type == device.type

    def leave(self) -> None:
        """Make room on the device."""
        if not self._stays:
            self._module.to("cpu")
            free(self.device)

    def take(self) -> None:
        """Be on the device from now on, with a network that has been attached meanwhile."""
        if self._stays:
            for parameter in self._module.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(self.device)
        else:
            self._module.to(self.device)


def free(device: torch.device) -> None:
    """Hand memory that nothing uses back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
