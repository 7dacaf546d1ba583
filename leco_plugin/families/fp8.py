"""Base weights held in eight bits and widened layer by layer, in the backward pass too.

diffusers' own layerwise casting narrows a weight again before the backward pass has used it, which convolutions
under a LoRA do not survive.
"""

from __future__ import annotations

from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

from leco_plugin.core.forward import give_forward

STORAGE = torch.float8_e4m3fn
_LARGEST = torch.finfo(STORAGE).max


def narrow(model: nn.Module) -> None:
    """Hold the weights of the blocks of a UNet or transformer in eight bits; what is around them stays as it is."""
    blocks = {name for name, part in model.named_children() if isinstance(part, nn.ModuleList)} | {"mid_block"}
    for name, layer in model.named_modules():
        if name.split(".")[0] not in blocks:
            continue
        if type(layer) is nn.Linear:
            _narrow(layer, _linear)
        elif type(layer) is nn.Conv2d:
            _narrow(layer, _conv2d)


def is_narrow(layer: nn.Module) -> bool:
    """Whether this layer's weight is held in eight bits."""
    return hasattr(layer, "weight_scale")


def widened(layer: nn.Module) -> Tensor:
    """The weight (out, in, ...) that a narrow layer computes with."""
    return _widened(cast(Tensor, layer.weight), cast(Tensor, layer.weight_scale))


def _narrow(layer: nn.Linear | nn.Conv2d, forward: Any) -> None:
    weight = layer.weight.detach()
    # eight bits reach down to 2**-9 only: without a scale per output, small weights would be lost
    scale = weight.float().flatten(1).abs().amax(1).clamp(min=1e-12) / _LARGEST
    scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
    bits = (weight.float() / scale).to(STORAGE).view(torch.uint8)
    # as bytes: PEFT would make its own weights of the same floating type
    layer.weight = nn.Parameter(bits, requires_grad=False)
    layer.register_buffer("weight_scale", scale.to(weight.dtype))
    if isinstance(layer, nn.Linear):
        give_forward(layer, forward)
    else:
        # the class stays: PEFT makes its own convolutions of the same class
        layer.forward = MethodType(forward, layer)  # type: ignore[method-assign]


def _linear(layer: Any, wide: Any, input: Tensor) -> Tensor:
    """(..., in) -> (..., out) in the precision of the scale."""
    output = cast(Any, _Linear).apply(input.to(layer.weight_scale.dtype), layer.weight, layer.weight_scale)
    return cast(Tensor, output) if layer.bias is None else cast(Tensor, output + layer.bias)


def _conv2d(layer: Any, input: Tensor) -> Tensor:
    """(R, in, h, w) -> (R, out, h', w') in the precision of the scale."""
    how = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    output = cast(Any, _Conv2d).apply(input.to(layer.weight_scale.dtype), layer.weight, layer.weight_scale, how)
    return cast(Tensor, output) if layer.bias is None else cast(Tensor, output + layer.bias.reshape(-1, 1, 1))


def _widened(bits: Tensor, scale: Tensor) -> Tensor:
    return bits.view(STORAGE).to(scale.dtype) * scale


class _Linear(torch.autograd.Function):
    """Keeps the eight bits for the backward pass, not the widened weight."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, bits: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(bits, scale)
        return functional.linear(input, _widened(bits, scale))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] @ _widened(*ctx.saved_tensors).to(gradients[0].dtype), None, None


class _Conv2d(torch.autograd.Function):
    """Keeps the eight bits for the backward pass, not the widened weight."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, bits: Tensor, scale: Tensor, how: dict[str, Any]) -> Tensor:
        ctx.save_for_backward(bits, scale)
        ctx.how, ctx.shape = how, input.shape
        return functional.conv2d(input, _widened(bits, scale), **how)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        weight = _widened(*ctx.saved_tensors).to(gradients[0].dtype)
        return cast(Any, conv2d_input)(ctx.shape, weight, gradients[0], **ctx.how), None, None, None
