"""Counts what operations on the meta device would hold and compute."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Held(NamedTuple):
    reference: weakref.ref[torch.UntypedStorage]
    size: int
    serial: int


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Block that counts the bytes which operations have made and that are still held, and FLOPs.

    ``known`` are tensors that were there before.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._held: dict[int, _Held] = {}
        self._outcomes: dict[Any, tuple[Any, int]] = {}
        self._serial = 0
        self.now = 0
        self.most = 0
        """Since the start, or since somebody set it."""
        self.flops = 0
        """As torch's FLOP counter counts them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, and count what comes out."""
        out, flops = self._call(func, args, kwargs or {})
        self.flops += flops
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _call(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, int]:
        """Its result and FLOPs; what it makes of arguments of the same shapes is found out once, for that is slow."""
        if any(argument.alias_info for argument in (*func._schema.arguments, *func._schema.returns)):
            return func(*args, **kwargs), 0
        key = (func, _shapes(args), _shapes(tuple(kwargs.items())))
        if key in self._outcomes:
            outcome, flops = self._outcomes[key]
            return _made(outcome), flops
        out = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        flops = int(formula(*args, **kwargs, out_val=out)) if formula else 0
        if _on_meta(out):
            self._outcomes[key] = _shapes(out), flops
        return out, flops

    def _add(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place in self._held or place in self._known:
            return
        self._serial += 1
        self._held[place] = _Held(weakref.ref(storage, lambda _: self._remove(place)), storage.nbytes(), self._serial)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)

    def _remove(self, place: int) -> None:
        self.now -= self._held.pop(place).size

    def held(self) -> dict[int, int]:
        """Sizes of everything that is held, by the order in which it was made."""
        return {each.serial: each.size for each in self._held.values()}

    def number(self, tensor: Tensor) -> int | None:
        """The place of ``tensor``'s bytes in that order; None where they were there before."""
        each = self._held.get(tensor.untyped_storage()._cdata)
        return each.serial if each else None


class _Shape(NamedTuple):
    """All that matters of a tensor without numbers."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: str


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Shape(value.shape, value.stride(), value.dtype, value.device.type)
    if isinstance(value, (tuple, list)):
        return tuple(map(_shapes, value))
    # 1 and 1.0 and True are equal, and make other tensors
    return value if value is None else (type(value), value)


def _made(outcome: Any) -> Any:
    if isinstance(outcome, _Shape):
        return torch.empty_strided(outcome.size, outcome.stride, dtype=outcome.dtype, device="meta")
    return tuple(map(_made, outcome))


def _on_meta(out: Any) -> bool:
    parts = out if isinstance(out, (tuple, list)) else (out,)
    return bool(parts) and all(isinstance(part, Tensor) and part.is_meta for part in parts)
