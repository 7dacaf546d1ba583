"""Gradients computed here, handed to a loss whose backward pass is the host's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST, _GROW_AFTER = 2.0**16, 2000

Backward = Callable[[Tensor], None]


class _Handed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *parameters: nn.Parameter) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        scale = outer[0]
        return None, None, *(g if g is None else (g * scale).to(g.dtype) for g in ctx.gradients)


class Gradients:
    """Runs a step's backward passes where they belong, and hands their sum to the host's own.

    The host calls ``backward`` once, after the step, when the LoRA has its usual strength again: too late for
    checkpointing, which recomputes with what is set then. Its accumulation, scaling and clipping see these gradients.
    """

    def __init__(self, *, scaled: bool) -> None:
        self.scale = _LARGEST if scaled else 1.0
        """What a loss is multiplied by in fp16, so that small gradients do not vanish on their way."""
        self._good = 0

    def handed(self, parameters: Sequence[nn.Parameter], step: Callable[[Backward], Tensor]) -> Tensor:
        """The loss () of ``step``, which calls the function it is given for each backward pass."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        before = [parameter.grad for parameter in trained]
        for parameter in trained:
            parameter.grad = None
        try:
            loss = step(lambda part: torch.autograd.backward(part * self.scale))
            gradients = [parameter.grad for parameter in trained]
        finally:
            for parameter, gradient in zip(trained, before, strict=True):
                parameter.grad = gradient
        self._unscale([gradient for gradient in gradients if gradient is not None])
        handed: Tensor = _Handed.apply(loss, gradients, *trained)  # type: ignore[no-untyped-call]
        return handed

    def _unscale(self, gradients: list[Tensor]) -> None:
        """Back to the gradients of the loss; what overflowed stays so, and the host's scaler leaves that step out."""
        if self.scale == 1.0 or not gradients:
            return
        for gradient in gradients:
            gradient.div_(self.scale)
        if all(bool(gradient.isfinite().all()) for gradient in gradients):
            self._good += 1
            if self._good % _GROW_AFTER == 0:
                self.scale = min(2 * self.scale, _LARGEST)
        else:
            self._good = 0
            self.scale = max(self.scale / 2, 2.0)
