"""What a CUDA card would do with tensors that have no numbers: autocast's rules, and attention that keeps no matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_HALF: frozenset[Callable[..., Any]] = frozenset({
    functional.linear, functional.conv2d, functional.conv3d, functional.scaled_dot_product_attention,
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum,
})  # fmt: skip
_FULL: frozenset[Callable[..., Any]] = frozenset({
    functional.layer_norm, functional.group_norm, functional.softmax, torch.softmax, Tensor.softmax,
    torch.exp, Tensor.exp, torch.pow, Tensor.pow, Tensor.__pow__, torch.rsqrt, Tensor.rsqrt, torch.sum, Tensor.sum,
    torch.norm, Tensor.norm, functional.normalize, functional.softplus, functional.mse_loss,
})  # fmt: skip
"""Source: torch.amp, "CUDA Ops that can autocast"; what a denoiser uses of it."""


class LikeCuda(TorchFunctionMode):
    """Block in which tensors on the meta device are computed with as tensors on a card are.

    ``half`` is the precision of autocast; None is without autocast.
    """

    def __init__(self, half: torch.dtype | None) -> None:
        super().__init__()
        self._half = half
        self._copies: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` with what autocast would hand it."""
        kwargs = kwargs or {}
        if self._half is not None and (func in _HALF or func in _FULL):
            to = self._half if func in _HALF else torch.float32
            args = [self._cast(value, to) for value in args]
            kwargs = {name: self._cast(value, to) for name, value in kwargs.items()}
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)

    def __exit__(self, *reason: Any) -> None:
        """Leave the block, and with it autocast's copies: what a backward pass needs holds them itself."""
        self._copies.clear()
        super().__exit__(*reason)  # type: ignore[no-untyped-call]

    def backward(self, loss: Tensor) -> None:
        """The backward pass, after the block; what checkpointing computes again in it is computed by these rules."""
        engine: Any = torch.autograd.Variable._execution_engine
        # not `loss.backward()`, which is a torch function itself: in it the rules would be switched off
        with self:
            engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, accumulate_grad=True)

    def _cast(self, value: Any, to: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == to:
            return value
        if to == torch.float32 or not (value.requires_grad and value.is_leaf):
            return value.to(to)
        # as autocast does: trained weights are copied once a call
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(to)
        return self._copies[id(value)]


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``scaled_dot_product_attention`` by its memory-efficient kernel, which the meta device would not choose."""
    if enable_gqa:
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros(attn_mask.shape, dtype=query.dtype, device=query.device)
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    result: tuple[Tensor, ...] = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )
    return result[0]
