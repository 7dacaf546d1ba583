"""What a model is made of, as far as its cost goes: layers, norms and attention, in the order they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A linear layer or convolution on one row."""

    name: str
    """As in diffusers."""
    inputs: int
    outputs: int
    positions: tuple[int, int]
    """Pixels or tokens that come in and go out."""
    kernel: int = 1
    """Side of the kernel."""
    bias: bool = True
    adaptable: str = ""
    """Which part of the network goes on it: linear, resnet, conv (3x3), or none."""
    shared: bool = False
    """Whether its input is kept for another layer anyway, where autocast makes no copies."""
    convolution: bool = False
    """Convolutions keep their input for the backward pass even where their weights are frozen."""

    @property
    def weights(self) -> int:
        """Numbers of its weight, without the bias."""
        return self.inputs * self.outputs * self.kernel**2

    @property
    def flops(self) -> int:
        """Of one forward pass of one row."""
        return 2 * self.weights * self.positions[1]


@dataclass(frozen=True)
class Norm:
    """A norm, or an activation behind it: computed, and kept for the backward pass, in float32."""

    elements: int
    channels: int = 0
    """Of its weight and of its bias."""


@dataclass(frozen=True)
class Keep:
    """Numbers that are kept for the backward pass in the precision of the model, and the FLOPs they come from."""

    elements: int
    attention_flops: int = 0


Entry = Layer | Norm | Keep


@dataclass(frozen=True)
class Unit:
    """A part that gradient checkpointing recomputes as a whole, or what stands between such parts."""

    entries: Sequence[Entry]
    input_elements: int
    checkpointed: bool = False
    held: int = 0
    """Numbers that other parts wait for meanwhile: what the way down leaves for the way up."""
    working: tuple[int, int] = (0, 0)
    """Numbers of the widest moment inside, in the model's precision and in float32, without those held."""


@dataclass(frozen=True)
class Model:
    """All parts of a denoiser in the order they are computed."""

    units: Sequence[Unit]

    @property
    def layers(self) -> list[Layer]:
        """Every linear layer and convolution."""
        return [entry for unit in self.units for entry in unit.entries if isinstance(entry, Layer)]

    @property
    def parameters(self) -> int:
        """Numbers in its weights."""
        norms = [entry for unit in self.units for entry in unit.entries if isinstance(entry, Norm)]
        layers = sum(layer.weights + layer.bias * layer.outputs for layer in self.layers)
        return layers + sum(2 * norm.channels for norm in norms)

    @property
    def attention_flops(self) -> int:
        """Of the products inside attention, one row, forward."""
        keeps = [entry for unit in self.units for entry in unit.entries if isinstance(entry, Keep)]
        return sum(keep.attention_flops for keep in keeps)

    @property
    def flops(self) -> int:
        """Of one forward pass of one row."""
        return sum(layer.flops for layer in self.layers) + self.attention_flops
