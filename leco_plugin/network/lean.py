"""The forward pass of PEFT's LoRA layers with as few kernels as its arithmetic needs.

PEFT's own casts every input to the precision of the LoRA, scales the full width of the output and adds it in float32:
in bf16 that is twice the kernels of the bare model. Here the weights are narrowed once a call, a row's strength meets
the few ranks in the middle, and what has strength 0 is the base layer alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    ups: Sequence[Tensor] | None = None
    """(rows, out, rank) of every layer: up weights times ``scales``, where that is worth its memory."""


class LeanLora:
    """What the layers of one network share in a call: their strength, and their weights in the model's precision."""

    def __init__(self, module: nn.Module, layers: Mapping[str, Any], adapter: str) -> None:
        """``layers`` are PEFT's, of ``adapter``; ``module`` is the model that they are in."""
        self._module = module
        self.strength: Strength | None = Strength()
        """None where the base model alone is asked."""
        self._wide = [p for layer in layers.values() for p in _weights(layer, adapter)]
        usual = usual_precision(module)
        self._dtypes = [dtype for layer in layers.values() for dtype in 2 * [precision(layer.get_base_layer(), usual)]]
        self._narrowed: Sequence[Tensor] | None = None
        self._scales: dict[tuple[float, ...] | float, Tensor] = {}

    def attach(self, layers: Mapping[str, Any], adapter: str, scales: Mapping[str, float], dropout: Dropout) -> None:
        """Replace the forward pass of the layers; ``scales`` are their alpha / rank."""
        for number, (name, layer) in enumerate(layers.items()):
            kind = _LeanConv if isinstance(layer.get_base_layer(), nn.Conv2d) else _LeanLinear
            layer.forward = kind(self, number, layer.get_base_layer(), layer.lora_A[adapter], scales[name], dropout)

    def weights(self, number: int) -> tuple[Tensor, Tensor]:
        """Down and up of the layer with this number."""
        held = self._wide if self._narrowed is None else self._narrowed
        return held[2 * number], held[2 * number + 1]

    @contextmanager
    def at(self, value: float | Sequence[float]) -> Iterator[None]:
        """Block in which the LoRA has this strength, for the whole batch or per row; restores what it found."""
        before = self.strength, self._narrowed
        self.strength = self._strength(value)
        if self.strength is not None:
            self._narrowed = self._narrow()
            self.strength = self._with_ups(self.strength)
        try:
            yield
        finally:
            self.strength, self._narrowed = before

    def _narrow(self) -> Sequence[Tensor] | None:
        if all(wide.dtype == dtype for wide, dtype in zip(self._wide, self._dtypes, strict=True)):
            return None
        return cast(Sequence[Tensor], cast(Any, _Narrow).apply(self._dtypes, *self._wide))

    def _strength(self, value: float | Sequence[float]) -> Strength | None:
        compiled = self._compiled
        values = [float(value)] if isinstance(value, (int, float)) else [float(one) for one in value]
        recording = torch.is_grad_enabled()
        # what trains at 0 has a gradient of 0, and not none
        if not any(values) and not recording:
            return None
        if len(set(values)) == 1:
            return Strength(scales=self._kept(values[0])) if compiled else Strength(values[0])
        # a gradient takes all rows in one piece: to put one together costs more than it saves
        if compiled or recording:
            return Strength(scales=self._kept(tuple(values)))
        acting = [row for row, one in enumerate(values) if one]
        rows, values = (acting[0], acting[-1] + 1), values[acting[0] : acting[-1] + 1]
        if len(set(values)) == 1:
            return Strength(values[0], rows=rows)
        return Strength(scales=self._kept(tuple(values)), rows=rows)

    def _with_ups(self, strength: Strength) -> Strength:
        ups = [self.weights(number)[1] for number in range(len(self._wide) // 2)]
        scales, sizes = strength.scales, [up.numel() for up in ups]
        if scales is None or not scales.ndim or self._compiled or len({up.dtype for up in ups}) != 1:
            return strength
        if scales.numel() * sum(sizes) * ups[0].element_size() > _MOST_ROW_BYTES:
            return strength
        # in float32, and rounded once
        times = (scales[:, None] * torch.cat([up.flatten() for up in ups])).to(ups[0].dtype)
        parts = torch.split(times, sizes, dim=1)
        return replace(
            strength, ups=[part.view(-1, len(up), up[0].numel()) for part, up in zip(parts, ups, strict=True)]
        )

    @property
    def _compiled(self) -> bool:
        return getattr(self._module, "_compiled_call_impl", None) is not None

    def _kept(self, values: tuple[float, ...] | float) -> Tensor:
        if values not in self._scales:
            if len(self._scales) >= _MOST_SCALES:
                self._scales.clear()
            self._scales[values] = sent(torch.tensor(values, dtype=torch.float32), self._wide[0].device)
        return self._scales[values]


class _LeanLayer:
    """``base(x) + strength * scale * up(down(x))``."""

    def __init__(
        self, shared: LeanLora, number: int, base: nn.Module, down: nn.Module, scale: float, dropout: Dropout
    ) -> None:
        self._shared, self._number, self._base, self._down = shared, number, base, down
        self._scale, self._dropout = scale, dropout

    def __call__(self, x: Tensor) -> Tensor:
        strength = self._shared.strength
        if strength is None:
            return cast(Tensor, self._base(x))
        down, up = self._shared.weights(self._number)
        if strength.ups is not None:
            up = strength.ups[self._number]
        # the base layer would cast it, and the LoRA once more
        return self._forward(x.to(down.dtype), down, up, strength)

    def _forward(self, x: Tensor, down: Tensor, up: Tensor, strength: Strength) -> Tensor:
        raise NotImplementedError

    def _scaled(self, middle: Tensor, strength: Strength) -> Tensor:
        """(rows, ..., rank) or (rows, rank, h, w) after dropout, times each row's own strength."""
        # the student alone has a gradient; training mode tells nothing: it stays on for checkpointing
        if torch.is_grad_enabled():
            middle = self._dropout.apply(middle)
        scales = strength.scales
        if scales is None or strength.ups is not None:
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
        how = cast(nn.Conv2d, self._down)
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
