"""The forward pass of PEFT's LoRA layers with as few kernels as its arithmetic needs.

PEFT's own casts every input to the precision of the LoRA, scales the full width of the output and adds it in float32:
in bf16 that is twice the kernels of the bare model. Here the weights are narrowed once a call, a row's strength meets
the few ranks in the middle, and what has strength 0 is the base layer alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from leco_plugin.core.forward import give_forward
from leco_plugin.core.noise import sent
from leco_plugin.network.dropout import Dropout

_COMPUTES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_MOST_SCALES = 1024
"""Combinations of strengths that are kept on the device; a run with a few pairs a step has far fewer."""
_MOST_ROW_BYTES = 64 * 2**20
"""Memory for up weights that are multiplied by every row's strength beforehand: one kernel less in each layer."""


@dataclass(frozen=True)
class Strength:
    """How strongly the LoRA acts in a call."""

    number: float = 1.0
    """Of every row, where ``scales`` is absent."""
    scales: Tensor | None = None
    """() or (rows,) float32, where rows differ or the model is compiled: a number would be part of what is compiled."""
    rows: tuple[int, int] | None = None
    """First row and the one after the last that the LoRA acts on; all where absent."""


Weights = Sequence[Tensor]
"""Down and up of every layer in turn; an up is (rows, out, rank) where it is multiplied by its rows' strengths."""


class LeanLora:
    """What gives the layers of one network their strength, and their weights in the model's precision."""

    def __init__(
        self, module: nn.Module, layers: Mapping[str, Any], adapter: str, scales: Mapping[str, float], dropout: Dropout
    ) -> None:
        """Replace the forward pass of ``layers``, which are PEFT's in ``module``; ``scales`` are their alpha / rank."""
        self._module = module
        self._wide: Weights = [p for layer in layers.values() for p in _weights(layer, adapter)]
        usual = usual_precision(module)
        self._dtypes = [dtype for layer in layers.values() for dtype in 2 * [precision(layer.get_base_layer(), usual)]]
        self._scales: dict[tuple[float, ...] | float, Tensor] = {}
        self._layers: list[_LeanLayer] = []
        for name, layer in layers.items():
            kind = _LeanConv if isinstance(layer.get_base_layer(), nn.Conv2d) else _LeanLinear
            layer.lean = kind(layer.get_base_layer(), layer.lora_A[adapter], scales[name], dropout)
            self._layers.append(layer.lean)
            give_forward(layer, _lean)
        self._set(Strength(), self._wide)

    @contextmanager
    def at(self, value: float | Sequence[float]) -> Iterator[None]:
        """Block in which the LoRA has this strength, for the whole batch or per row; restores what it found."""
        before = self._now
        strength = self._strength(value)
        self._set(strength, self._wide if strength is None else self._multiplied(self._narrow(), strength.scales))
        try:
            yield
        finally:
            self._set(*before)

    def _set(self, strength: Strength | None, weights: Weights) -> None:
        self._now = strength, weights
        # each has its own: a block of a model that is compiled must not know which of its like it is
        for layer, down, up in zip(self._layers, weights[::2], weights[1::2], strict=True):
            layer.strength, layer.down, layer.up = strength, down, up

    def _narrow(self) -> Weights:
        if all(wide.dtype == dtype for wide, dtype in zip(self._wide, self._dtypes, strict=True)):
            return self._wide
        return cast(Weights, cast(Any, _Narrow).apply(self._dtypes, *self._wide))

    def _strength(self, value: float | Sequence[float]) -> Strength | None:
        values = [float(value)] if isinstance(value, (int, float)) else [float(one) for one in value]
        recording = torch.is_grad_enabled()
        # what trains at 0 has a gradient of 0, and not none
        if not any(values) and not recording:
            return None
        if self._compiled:
            return Strength(scales=self._kept(values[0] if isinstance(value, (int, float)) else tuple(values)))
        if len(set(values)) == 1:
            return Strength(values[0])
        # a gradient takes all rows in one piece: to put one together costs more than it saves
        if recording:
            return Strength(scales=self._kept(tuple(values)))
        acting = [row for row, one in enumerate(values) if one]
        rows, values = (acting[0], acting[-1] + 1), values[acting[0] : acting[-1] + 1]
        if len(set(values)) == 1:
            return Strength(values[0], rows=rows)
        return Strength(scales=self._kept(tuple(values)), rows=rows)

    def _multiplied(self, weights: Weights, scales: Tensor | None) -> Weights:
        """The weights with ups times ``scales``, where those differ by row and that is worth its memory."""
        ups = weights[1::2]
        if scales is None or not scales.ndim or self._compiled or len({up.dtype for up in ups}) != 1:
            return weights
        sizes = [up.numel() for up in ups]
        if scales.numel() * sum(sizes) * ups[0].element_size() > _MOST_ROW_BYTES:
            return weights
        # in float32, and rounded once
        times = (scales[:, None] * torch.cat([up.flatten() for up in ups])).to(ups[0].dtype)
        parts = zip(weights[::2], ups, torch.split(times, sizes, dim=1), strict=True)
        return [one for down, up, part in parts for one in (down, part.view(-1, len(up), up[0].numel()))]

    @cached_property
    def _compiled(self) -> bool:
        """Whether the model or its blocks are, as they are when it is asked first."""
        return any(getattr(part, "_compiled_call_impl", None) is not None for part in self._module.modules())

    def _kept(self, values: tuple[float, ...] | float) -> Tensor:
        if values not in self._scales:
            if len(self._scales) >= _MOST_SCALES:
                self._scales.clear()
            self._scales[values] = sent(torch.tensor(values, dtype=torch.float32), self._wide[0].device)
        return self._scales[values]


def _lean(layer: Any, peft: Any, x: Tensor) -> Tensor:
    return cast(Tensor, layer.lean(x))


class _LeanLayer:
    """``base(x) + strength * scale * up(down(x))``."""

    strength: Strength | None
    """None where the base model alone is asked."""
    down: Tensor
    up: Tensor

    def __init__(self, base: nn.Module, how: nn.Module, scale: float, dropout: Dropout) -> None:
        """``how`` is PEFT's own down layer: a convolution's stride and padding are there."""
        self._base, self._how, self._scale, self._dropout = base, how, scale, dropout

    def __call__(self, x: Tensor) -> Tensor:
        if self.strength is None:
            return cast(Tensor, self._base(x))
        # the base layer would cast it, and the LoRA once more
        return self._forward(x.to(self.down.dtype), self.down, self.up, self.strength)

    def _forward(self, x: Tensor, down: Tensor, up: Tensor, strength: Strength) -> Tensor:
        raise NotImplementedError

    def _scaled(self, middle: Tensor, strength: Strength) -> Tensor:
        """(rows, ..., rank) or (rows, rank, h, w) after dropout, times each row's own strength."""
        # the student alone has a gradient; training mode tells nothing: it stays on for checkpointing
        if torch.is_grad_enabled():
            middle = self._dropout.apply(middle)
        scales = strength.scales
        if scales is None or self.up.ndim == 3:
            return middle
        # in place: computed in float32, and rounded once
        return middle.mul_(scales.reshape(-1, *[1] * (middle.ndim - 1)) if scales.ndim else scales)

    def _factor(self, strength: Strength) -> float:
        return self._scale * (strength.number if strength.scales is None else 1.0)


class _LeanLinear(_LeanLayer):
    def _forward(self, x: Tensor, down: Tensor, up: Tensor, strength: Strength) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = cast(Tensor, self._base(flat))
        tokens = flat.shape[0] // x.shape[0]
        first, last = strength.rows or (0, x.shape[0])
        acting = slice(first * tokens, last * tokens)
        middle = functional.linear(flat[acting], down).view(last - first, *x.shape[1:-1], down.shape[0])
        middle = self._scaled(middle, strength)
        factor = self._factor(strength)
        if up.ndim == 3:
            shape = (-1, tokens, out.shape[-1])
            out = _added(out.view(shape), first, last, middle.view(last - first, tokens, -1), up.mT, factor)
        elif torch.is_grad_enabled():
            out = torch.addmm(out, middle.view(-1, len(down)), up.t(), alpha=factor)
        else:
            out[acting].addmm_(middle.view(-1, len(down)), up.t(), alpha=factor)
        return out.view(*x.shape[:-1], out.shape[-1])


class _LeanConv(_LeanLayer):
    def _forward(self, x: Tensor, down: Tensor, up: Tensor, strength: Strength) -> Tensor:
        out = cast(Tensor, self._base(x))
        first, last = strength.rows or (0, x.shape[0])
        how = cast(nn.Conv2d, self._how)
        middle = functional.conv2d(x[first:last], down, None, how.stride, how.padding, how.dilation, how.groups)
        middle = self._scaled(middle, strength).flatten(2)
        up = up if up.ndim == 3 else up.flatten(1).expand(len(middle), -1, -1)
        return _added(out.flatten(2), first, last, up, middle, self._factor(strength)).view(out.shape)


def _added(out: Tensor, first: int, last: int, one: Tensor, other: Tensor, factor: float) -> Tensor:
    """``out`` (rows, m, n) plus factor * one @ other (last - first, m, n) in its rows from first to last."""
    if torch.is_grad_enabled():
        return torch.baddbmm(out, one, other, alpha=factor)
    out[first:last].baddbmm_(one, other, alpha=factor)
    return out


class _Narrow(torch.autograd.Function):
    """Weights in the precision that the model computes in, all at once, and their gradients back."""

    @staticmethod
    def forward(ctx: Any, dtypes: Sequence[torch.dtype], *wide: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtypes = [weight.dtype for weight in wide]
        return _cast(wide, dtypes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [number for number, gradient in enumerate(gradients) if gradient is not None]
        widened = _cast([cast(Tensor, gradients[n]) for n in there], [ctx.dtypes[n] for n in there])
        found = dict(zip(there, widened, strict=True))
        return (None, *(found.get(number) for number in range(len(gradients))))


def _cast(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> tuple[Tensor, ...]:
    made = [torch.empty_like(tensor, dtype=dtype) for tensor, dtype in zip(tensors, dtypes, strict=True)]
    torch._foreach_copy_(made, list(tensors))
    return tuple(made)


def _weights(layer: Any, adapter: str) -> tuple[nn.Parameter, nn.Parameter]:
    return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight


def usual_precision(module: nn.Module) -> torch.dtype:
    """What most of a model computes in."""
    return next((p.dtype for p in module.parameters() if p.dtype in _COMPUTES), torch.float32)


def precision(layer: nn.Module, usual: torch.dtype) -> torch.dtype:
    """What a layer computes in: the precision of its weight, the ``usual`` one where that is quantized."""
    dtype = cast(Tensor, layer.weight).dtype
    return dtype if dtype in _COMPUTES else usual
