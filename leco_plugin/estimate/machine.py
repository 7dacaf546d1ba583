"""A card that is not there: what operations on torch's meta device would hold and compute on CUDA."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_HALF: frozenset[Callable[..., Any]] = frozenset({
    functional.linear, functional.conv2d, functional.conv3d, functional.scaled_dot_product_attention, torch.einsum,
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, torch.bmm, torch.addmm, torch.baddbmm,
})  # fmt: skip
_FULL: frozenset[Callable[..., Any]] = frozenset({
    functional.layer_norm, functional.group_norm, functional.softmax, torch.softmax, Tensor.softmax, torch.exp,
    Tensor.exp, torch.pow, Tensor.pow, Tensor.__pow__, torch.rsqrt, torch.sum, Tensor.sum, torch.norm, Tensor.norm,
})  # fmt: skip
"""Source: torch.amp, "CUDA Ops that can autocast"; what denoisers use of it."""


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Block that counts FLOPs, and the bytes that operations have made and that are still held; not those ``known``."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held = {tensor.untyped_storage()._cdata for tensor in known}
        self._outcomes: dict[Any, tuple[Any, int]] = {}
        self.now = self.most = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, and count what comes out."""
        out, flops = self._call(func, args, kwargs or {})
        self.flops += flops
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _call(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, int]:
        """Its result and FLOPs; what it makes of tensors of the same shapes is found out once, for that is slow."""
        shares, in_place = _memory(func)
        if shares and not in_place:
            return func(*args, **kwargs), 0
        key = func, _shapes(args), _shapes(tuple(kwargs.items()))
        if key in self._outcomes:
            shapes, flops = self._outcomes[key]
            return args[0] if in_place else _made(shapes), flops
        out = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        flops = int(formula(*args, **kwargs, out_val=out)) if formula else 0
        parts = out if isinstance(out, (tuple, list)) else (out,)
        if all(part is None or (isinstance(part, Tensor) and part.is_meta) for part in parts):
            self._outcomes[key] = _shapes(out), flops
        return out, flops

    def _add(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place not in self._held:
            self._held.add(place)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, place, size)

    def _gone(self, place: int, size: int) -> None:
        self._held.remove(place)
        self.now -= size


@cache
def _memory(func: Any) -> tuple[bool, bool]:
    """Whether the memory of a result is that of an argument, and whether it is the first one itself, written to."""
    shares = any(value.alias_info for value in (*func._schema.arguments, *func._schema.returns))
    return shares, func._schema.name.endswith("_") and torch.Tag.inplace_view not in func.tags


def _shapes(value: Any) -> Any:
    """``value`` without the numbers in its tensors."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device.type
    if isinstance(value, (tuple, list)):
        return tuple(map(_shapes, value))
    # 1 and 1.0 and True are equal, and make other tensors
    return type(value), value


def _made(shapes: Any) -> Any:
    if shapes == (type(None), None):
        return None
    if isinstance(shapes[0], torch.Size):
        return torch.empty_strided(shapes[0], shapes[1], dtype=shapes[2], device="meta")
    return tuple(map(_made, shapes))


class LikeCuda(TorchFunctionMode):
    """Block with autocast to ``half``, or without it for None, and with the attention that a card would choose."""

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
        return (_attention if func is functional.scaled_dot_product_attention else func)(*args, **kwargs)

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


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
               is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
    """``scaled_dot_product_attention`` by the kernel that keeps no matrix; the meta device would take another."""
    if enable_gqa:
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros(attn_mask.shape, dtype=query.dtype, device=query.device)
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    kernel: Any = torch.ops.aten._scaled_dot_product_efficient_attention
    grads = torch.is_grad_enabled()
    return cast(Tensor, kernel(query, key, value, attn_mask, grads, dropout_p, is_causal, scale=scale)[0])
