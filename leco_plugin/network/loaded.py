"""A LoRA file of any trainer on a model, at any strength, for measuring and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from leco_plugin.errors import NetworkError
from leco_plugin.network.differences import LENGTHS, Parts, bias_changes, is_set, networks, weight_changes
from leco_plugin.network.lean import precision, usual_precision
from leco_plugin.network.lora_read import Layer, LoraFile
from leco_plugin.network.matched import match, weight_shape

Effect = Callable[[Tensor], Tensor]
"""From a layer's input to what the LoRA adds to its output at strength 1."""


class LoadedLora:
    """A file's LoRA, LoCon, DoRA, LoHa, LoKr, differences and biases, added to what the layers of ``module`` give.

    Raises NetworkError where the file has nothing for ``module``, or is for a model of other widths.
    """

    takes_rows = True

    def __init__(self, module: nn.Module, file: LoraFile) -> None:
        self._strength: float | Sequence[float] = 0.0
        found = match(file, module)
        self.layers, self.left_out = len(found.layers), found.left_out
        targets, usual = {name: module.get_submodule(name) for name in found.layers}, usual_precision(module)
        self._hooks = [
            targets[name].register_forward_hook(self._hook(_effect(targets[name], layer, usual), is_set(layer.parts)))
            for name, layer in found.layers.items()
        ]

    def _hook(self, effect: Effect, fixed: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output if self._strength == 0 else output + self._by(output, fixed) * effect(inputs[0])

        return add

    def _by(self, output: Tensor, fixed: bool) -> float | Tensor:
        """The strength: a number, or (R, 1, ...); 1 instead of any but 0 for what is ``fixed``."""
        if isinstance(self._strength, float):
            return 1.0 if fixed else self._strength
        rows = torch.tensor(self._strength, device=output.device, dtype=output.dtype)
        return (rows.ne(0).to(rows.dtype) if fixed else rows).reshape(-1, *[1] * (output.ndim - 1))

    def detach(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def parameters(self) -> list[nn.Parameter]:
        """None: it is not trained."""
        return []

    @contextmanager
    def multiplier(self, value: float | Sequence[float]) -> Iterator[None]:
        """Block in which the LoRA has this strength, for the whole batch or per row; restores what it found."""
        before = self._strength
        values = [value] if isinstance(value, (int, float)) else value
        self._strength = float(values[0]) if len(set(values)) == 1 else tuple(values)
        try:
            yield
        finally:
            self._strength = before

    def save(self, path: Path, dtype: str, metadata: Mapping[str, str]) -> None:
        """Never called: the file is there already."""
        raise AssertionError("a loaded LoRA is not saved")


def _effect(target: nn.Module, layer: Layer, usual: torch.dtype) -> Effect:
    """What the tensors of one layer do to the output of ``target``, in a model that usually computes in ``usual``."""
    device, dtype = cast(Tensor, target.weight).device, precision(target, usual)
    ready = {name: tensor.to(device, dtype) for name, tensor in layer.parts.items()}
    effects: list[Effect] = []
    if networks(ready).keys() - {"bias"}:
        plain = networks(ready).keys() <= {"LoRA", "bias"} and not ready.keys() & {"lora_mid.weight", *LENGTHS}
        effects.append((_low_rank if plain else _whole)(target, ready, layer.scale))
    biases = list(bias_changes(ready, layer.scale))
    if biases:
        added = torch.stack(biases).sum(0)
        channels_first = isinstance(target, (nn.Conv2d, nn.GroupNorm))
        effects.append(lambda inputs: added.reshape(-1, *[1] * (inputs.ndim - 2)) if channels_first else added)
    return effects[0] if len(effects) == 1 else lambda inputs: effects[0](inputs) + effects[1](inputs)


def _low_rank(target: nn.Module, parts: Parts, scale: float) -> Effect:
    """Both factors one after the other: the change of the weight is never put together."""
    down, up = parts["lora_down.weight"], parts["lora_up.weight"].flatten(1)
    if isinstance(target, nn.Conv2d):
        down = down.reshape(len(down), target.in_channels, *target.kernel_size)
        return lambda inputs: scale * functional.conv2d(_applied(target, inputs, down), up[:, :, None, None])
    down = down.flatten(1)
    return lambda inputs: scale * functional.linear(functional.linear(inputs, down), up)


def _whole(target: nn.Module, parts: Parts, scale: float) -> Effect:
    """The change of the weight is put together at every call: kept, it would be as large as the model."""
    base, shape = cast(Tensor, target.weight), weight_shape(target)
    if (is_set(parts) or parts.keys() & set(LENGTHS)) and (base.dtype.itemsize == 1 or type(base.data) is not Tensor):
        raise NetworkError(
            "a DoRA or a new weight is worked out from the model's own, and those are held in fewer bits",
            fix="leave memory.fp8_base and memory.quantize out",
        )

    def effect(inputs: Tensor) -> Tensor:
        if is_set(parts):
            return _applied(target, inputs, parts["set_weight"].reshape(shape) - base.to(inputs.dtype))
        change = torch.stack([one.reshape(shape) for one in weight_changes(parts, scale)]).sum(0)
        return _applied(target, inputs, _decomposed(base.to(change.dtype), change, parts))

    return effect


def _decomposed(base: Tensor, change: Tensor, parts: Parts) -> Tensor:
    """DoRA (arXiv:2402.09353): the change to a weight whose outputs, or inputs, have the lengths that are given."""
    length = parts.get("lora_magnitude_vector", parts.get("dora_scale"))
    if length is None:
        return change
    new = base + change
    # PEFT's are those of outputs in any shape
    by_input = "dora_scale" in parts and length.ndim > 1 and length.shape[0] == 1 and base.shape[0] != 1
    kept = 1 if by_input else 0
    others = [dimension for dimension in range(new.ndim) if dimension != kept]
    shape = [-1 if dimension == kept else 1 for dimension in range(new.ndim)]
    lengths = torch.linalg.vector_norm(new, dim=others, keepdim=True)
    return cast(Tensor, length.reshape(shape) * new / lengths - base)


def _applied(target: nn.Module, inputs: Tensor, weight: Tensor) -> Tensor:
    """What ``target`` would give with this weight and without a bias: all these layers are linear in their weight."""
    if isinstance(target, nn.Conv2d):
        return functional.conv2d(inputs, weight, None, target.stride, target.padding, target.dilation, target.groups)
    if isinstance(target, nn.GroupNorm):
        return functional.group_norm(inputs, target.num_groups, weight, None, target.eps)
    if isinstance(target, nn.LayerNorm):
        return functional.layer_norm(inputs, target.normalized_shape, weight, None, target.eps)
    return functional.linear(inputs, weight)
