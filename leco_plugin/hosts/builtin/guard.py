"""No optimizer step with a gradient that is not finite."""

from __future__ import annotations

import torch
from torch import Tensor


class Guard:
    """Leaves out every step from the first one on whose gradient is not finite; the weights stay the last good ones.

    That is decided on the device, so that nothing waits for it: fused optimizers leave a step out themselves, what
    others did is taken back.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, *, averages: bool = False) -> None:
        """``averages`` where what the optimizer keeps beside the weights is part of what is saved."""
        self._optimizer, self._averages = optimizer, averages
        fused = any(group.get("fused") for group in optimizer.param_groups)
        self._leaves_out = fused and bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        self._bad = torch.zeros((), device=device)
        self._left_out = torch.zeros((), device=device)

    def step(self, norm: Tensor) -> None:
        """Take a step if ``norm`` (), that of the gradient, and all before it were finite."""
        self._bad = torch.maximum(self._bad, (~norm.isfinite()).float())
        self._left_out = self._left_out + self._bad
        if self._leaves_out:
            # what torch's own gradient scaler hands to a fused optimizer
            self._optimizer.found_inf = self._bad  # type: ignore[attr-defined]
            self._optimizer.step()
            return
        held = self._held()
        before = _flat(held)
        self._optimizer.step()
        _fill(held, torch.where(self._bad > 0, before, _flat(held)))

    def _held(self) -> list[Tensor]:
        """Of what a file is made."""
        weights: list[Tensor] = [weight for group in self._optimizer.param_groups for weight in group["params"]]
        if not self._averages:
            return weights
        beside = [(weight, value) for weight in weights for value in self._optimizer.state[weight].values()]
        return weights + [value for weight, value in beside if getattr(value, "shape", None) == weight.shape]

    @property
    def bad(self) -> Tensor:
        """() 1 where a gradient was not finite, else 0; on the device."""
        return self._bad

    @property
    def left_out(self) -> int:
        """Steps that were not taken; waits for the device."""
        return int(self._left_out)


def _flat(tensors: list[Tensor]) -> Tensor:
    """One after the other: a few kernels instead of one for each."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _fill(tensors: list[Tensor], flat: Tensor) -> None:
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    views = [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
    torch._foreach_copy_([tensor.detach() for tensor in tensors], views)
