"""No optimizer step with a gradient that is not finite."""

from __future__ import annotations

import torch
from torch import Tensor


class Guard:
    """Leaves out every step from the first one on whose gradient is not finite; the weights stay the last good ones.

    Fused optimizers leave a step out on the device, so that nothing waits for it; others are asked about first.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self._on_device = device.type != "cpu" and bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        self._bad = torch.zeros((), device=device)
        self._left_out = torch.zeros((), device=device)

    def step(self, norm: Tensor) -> None:
        """Take a step if ``norm`` (), that of the gradient, and all before it were finite."""
        self._bad = torch.maximum(self._bad, (~norm.isfinite()).float())
        self._left_out = self._left_out + self._bad
        if self._on_device:
            # what torch's own gradient scaler hands to a fused optimizer
            self._optimizer.found_inf = self._bad  # type: ignore[attr-defined]
            self._optimizer.step()
        elif not self.tripped:
            self._optimizer.step()

    @property
    def tripped(self) -> bool:
        """Whether a gradient was not finite; waits for the device."""
        return bool(self._bad)

    @property
    def left_out(self) -> int:
        """Steps that were not taken; waits for the device."""
        return int(self._left_out)

    @property
    def waits(self) -> bool:
        """Whether every step waits for the device anyway."""
        return not self._on_device
