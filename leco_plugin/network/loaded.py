"""A LoRA file of any trainer on a UNet, at any strength, for measuring and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from leco_plugin.errors import NetworkError
from leco_plugin.network.blocks import original_name
from leco_plugin.network.differences import LORA, difference, scale
from leco_plugin.network.lora_keys import alphas, by_layer

Effect = Callable[[Tensor], Tensor]
"""From a layer's input to what the LoRA adds to its output at strength 1."""


@dataclass(frozen=True)
class LeftOut:
    """Keys of a file that are not used."""

    text: int
    """For a text encoder, which LECO does not train."""
    unknown: tuple[str, ...]
    """Without a layer in this model, or of a kind that cannot be read here."""


class LoadedLora:
    """A file's LoRA, LoCon, DoRA, LoHa, LoKr or plain difference, added to what the layers of ``module`` give.

    Layers are found by their names in diffusers or in the original checkpoint. Raises NetworkError where none fits.
    """

    takes_rows = True

    def __init__(
        self, module: nn.Module, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
    ) -> None:
        self._strength: float | Sequence[float] = 0.0
        known = _known_layers(module)
        effects: dict[str, Effect] = {}
        unknown: list[str] = []
        text = 0
        layers = by_layer(tensors)
        other = alphas(metadata, {layer for _, layer in layers})
        for (owner, layer), keys in layers.items():
            parts = {part: tensors[key] for part, key in keys.items()}
            effect = _effect(path, known[layer], parts, other.get(layer)) if layer in known else None
            if owner == "text":
                text += len(keys)
            elif effect is None or owner == "other":
                unknown += keys.values()
            else:
                effects[layer] = effect
        if not effects:
            shown = next(iter(tensors), "no tensor at all")
            raise NetworkError(f"{path} has nothing for a layer of this model: it holds {shown}", fix=_OTHER_MODEL)
        self.layers = len(effects)
        self.left_out = LeftOut(text, tuple(unknown))
        self._hooks = [known[layer].register_forward_hook(self._hook(effect)) for layer, effect in effects.items()]

    def _hook(self, effect: Effect) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if isinstance(self._strength, float):
                return output if self._strength == 0 else output + self._strength * effect(inputs[0])
            strength = torch.tensor(self._strength, device=output.device, dtype=output.dtype)
            return output + strength.reshape(-1, *[1] * (output.ndim - 1)) * effect(inputs[0])

        return add

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
        self._strength = float(value) if isinstance(value, (int, float)) else tuple(value)
        try:
            yield
        finally:
            self._strength = before

    def save(self, path: Path, dtype: str, metadata: Mapping[str, str]) -> None:
        """Never called: the file is there already."""
        raise AssertionError("a loaded LoRA is not saved")


_OTHER_MODEL = "name the model that it was made for"


def _known_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Every layer that a LoRA could be for, by what files call it: as diffusers does, or as the checkpoint."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    every = {name for name, _ in module.named_modules()}
    originals: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        with suppress(ValueError):
            originals[original_name(name, every).replace(".", "_")] = layer
    return {**originals, **{name.replace(".", "_"): layer for name, layer in layers.items()}}


def _effect(path: Path, layer: nn.Module, parts: Mapping[str, Tensor], alpha: float | None) -> Effect | None:
    """What the tensors of one layer do; None where they are of a kind that is not known here."""
    base = cast(Tensor, layer.weight)
    # a base model in eight bits computes in what its biases are in
    kinds = [tensor.dtype for tensor in (base, layer.bias) if isinstance(tensor, Tensor) and tensor.dtype.itemsize > 1]
    ready = {name: tensor.to(base.device, kinds[0] if kinds else torch.bfloat16) for name, tensor in parts.items()}
    alpha = float(parts["alpha"]) if "alpha" in parts else alpha
    try:
        change = difference(ready, alpha)
        if change is None:
            return None
        # the same layer is a linear in one model and a 1x1 convolution in another
        change.reshape(base.shape)
        if change.shape[:2] != base.shape[:2]:
            raise RuntimeError
    except RuntimeError:
        wanted = " x ".join(map(str, base.shape))
        raise NetworkError(
            f"{path} is for a model of other widths: a layer is {wanted} here", fix=_OTHER_MODEL
        ) from None
    if ready.keys() - {"alpha"} == LORA:
        return _low_rank(layer, ready, alpha)
    return _whole(layer, ready, alpha)


def _low_rank(layer: nn.Module, parts: Mapping[str, Tensor], alpha: float | None) -> Effect:
    """Both factors one after the other: the change of the weight is never put together."""
    down, up, by = parts["lora_down.weight"], parts["lora_up.weight"].flatten(1), scale(parts, alpha)
    if isinstance(layer, nn.Conv2d):
        down = down.reshape(len(down), layer.in_channels, *layer.kernel_size)
        return lambda inputs: by * functional.conv2d(_convolved(layer, inputs, down), up[:, :, None, None])
    down = down.flatten(1)
    return lambda inputs: by * functional.linear(functional.linear(inputs, down), up)


def _whole(layer: nn.Module, parts: Mapping[str, Tensor], alpha: float | None) -> Effect:
    """The change of the weight is put together at every call: kept, it would be as large as the model."""
    base, length = cast(Tensor, layer.weight), parts.get("dora_scale")

    def effect(inputs: Tensor) -> Tensor:
        change = cast(Tensor, difference(parts, alpha)).reshape(base.shape)
        if length is not None:
            change = _decomposed(base.to(change.dtype), change, length)
        return _convolved(layer, inputs, change) if isinstance(layer, nn.Conv2d) else functional.linear(inputs, change)

    return effect


def _decomposed(base: Tensor, change: Tensor, length: Tensor) -> Tensor:
    """DoRA (arXiv:2402.09353): the change to a weight whose outputs, or inputs, have the given lengths."""
    new = base + change
    kept = 1 if length.ndim > 1 and length.shape[0] == 1 and base.shape[0] != 1 else 0
    others = [dimension for dimension in range(new.ndim) if dimension != kept]
    shape = [-1 if dimension == kept else 1 for dimension in range(new.ndim)]
    lengths = torch.linalg.vector_norm(new, dim=others, keepdim=True)
    return cast(Tensor, length.reshape(shape) * new / lengths - base)


def _convolved(layer: nn.Conv2d, inputs: Tensor, weight: Tensor) -> Tensor:
    return functional.conv2d(inputs, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
