"""Bytes on the device: weights, what a call keeps and works with, and the network that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leco_plugin.config.layer_choice import Choice
from leco_plugin.config.schema import JobConfig, NetworkConfig
from leco_plugin.estimate.layers import Layer, Model, Norm, Unit

_WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}
_NORM_WIDTH = 4
"""Norms and activations are computed in float32 whatever the model is: autocast's rule on CUDA."""
_STATE_BYTES: Mapping[str, float] = {
    "sgd": 0, "sgdnesterov": 4, "sgdnesterov8bit": 1, "adagrad": 4, "rmsprop": 4, "adafactor": 0.1,
    "lion": 4, "lion8bit": 1, "adamw8bit": 2, "adam8bit": 2, "ademamix8bit": 3,
    "prodigy": 16, "dadaptation": 12, "dadaptadam": 12, "dadaptadampreprint": 12, "dadaptadan": 20, "dadaptadanip": 20,
}  # fmt: skip
_USUAL_STATE_BYTES = 8
"""Two float32 numbers a weight, as Adam has; those of a paged optimizer can leave the device."""


@dataclass(frozen=True)
class Adapter:
    """The network of a job, on a model of which only the layers are known."""

    config: NetworkConfig
    rank: int
    """Of everything but 3x3 convolutions."""

    def rank_on(self, layer: Layer) -> int:
        """The rank on ``layer``; 0 where the network is not on it."""
        config = self.config
        possible = layer.adaptable == "linear" or (layer.adaptable and config.conv is not None)
        choice = Choice(config.layers, config.only_if_contains, config.ignore_if_contains)
        if not possible or not choice.takes(layer.name):
            return 0
        return config.conv or self.rank if layer.adaptable == "conv" else self.rank

    def weights_on(self, layer: Layer) -> int:
        """Numbers of its part on ``layer``."""
        rank, inputs = self.rank_on(layer), layer.inputs * layer.kernel**2
        if not rank:
            return 0
        if self.config.type == "lokr":
            return _lokr_weights(layer, rank)
        factors = rank * (inputs + layer.outputs)
        return 2 * factors if self.config.type == "loha" else factors

    def kept_for(self, layer: Layer, width: int, *, gradient: bool) -> int:
        """Bytes of one row that ``layer`` keeps for the backward pass; ``gradient``: whether one goes on to its input.

        Autocast makes a copy of the input for every use; without it, they share one.
        """
        rank, (before, after) = self.rank_on(layer), layer.positions
        uses = int(layer.convolution and gradient) + bool(rank)
        if width == _NORM_WIDTH:
            uses = min(uses, 0 if layer.shared else 1)
        kept = uses * layer.inputs * before
        if self.config.type == "lora":
            kept += rank * after
        return width * kept

    def full_weight(self, layer: Layer, width: int) -> int:
        """Bytes that are kept however many rows there are: LoHa and LoKr put whole weights together."""
        return width * layer.weights if self.rank_on(layer) and self.config.type in ("loha", "lokr") else 0

    def whole_weights(self, layer: Layer) -> int:
        """Bytes for a moment: whole weights in float32 that all kinds but LoRA put together."""
        return 10 * layer.weights if self.rank_on(layer) and self.config.type != "lora" else 0


@dataclass(frozen=True)
class Calls:
    """Rows of the widest calls of a step."""

    without_gradient: int
    student: int


@dataclass(frozen=True)
class Parts:
    """Bytes on the device, by what they are for."""

    model: int
    network: int
    """Its weights, their gradients, and the optimizer's state."""
    text_encoders: int
    """Only at the start."""
    without_gradient: int
    """Of the teacher's and the walk's call, while it runs."""
    student: int
    """Of the student's call, kept for its backward pass."""
    overhead: int
    """CUDA's context, the libraries' workspaces, and gaps between what is allocated."""

    @property
    def peak(self) -> int:
        """The most at one time."""
        return self.model + self.network + self.overhead + max(self.text_encoders, self.without_gradient, self.student)


_CONTEXT, _GAPS = 600 * 2**20, 0.08


def memory_parts(job: JobConfig, model: Model, adapter: Adapter, calls: Calls, text_numbers: int) -> Parts:
    """The parts of one run of ``job``; ``text_numbers`` is what the text encoders' weights hold, in float32."""
    width, layers = _WIDTHS[job.train.dtype], model.layers
    weights = width * model.parameters
    if job.memory.fp8_base:
        weights -= (width - 1) * sum(layer.weights for layer in layers if "_block" in layer.name)
    numbers = sum(adapter.weights_on(layer) for layer in layers)
    own = _WIDTHS[job.network.dtype]
    state = 0 if job.train.optimizer.startswith("paged") else _STATE_BYTES.get(job.train.optimizer, _USUAL_STATE_BYTES)
    # with autocast, a copy in its precision besides
    network = round(numbers * (2 * own + state * own / 4 + (width if own > width else 0)))
    whole, each = working_bytes(model, adapter, width)
    walking = whole + calls.without_gradient * each
    checkpointing = job.train.gradient_checkpointing
    student = whole + sum(kept_bytes(model, adapter, calls.student, width, checkpointing=checkpointing))
    moving = max(walking, student, 4 * text_numbers)
    return Parts(weights, network, 4 * text_numbers, walking, student, _CONTEXT + round(_GAPS * moving))


def working_bytes(model: Model, adapter: Adapter, width: int) -> tuple[int, int]:
    """Bytes at the widest moment of a call that keeps nothing: once, and for each row."""
    whole = max((adapter.whole_weights(layer) for layer in model.layers), default=0)
    return whole, max(width * (unit.held + unit.working[0]) + _NORM_WIDTH * unit.working[1] for unit in model.units)


def kept_bytes(model: Model, adapter: Adapter, rows: int, width: int, *, checkpointing: bool) -> tuple[int, int]:
    """Bytes that a call with gradients keeps for its backward pass, and those at work in it when that begins.

    ``width`` is the bytes of a number in the model's precision.
    """
    kept, widest, gradient = 0, 0, False
    for unit in model.units:
        inside, gradient = _kept(unit, adapter, rows, width, gradient)
        if checkpointing and unit.checkpointed:
            kept += rows * width * unit.input_elements
            widest = max(widest, inside)
        else:
            kept += inside
            at_work = width * unit.working[0] + _NORM_WIDTH * unit.working[1]
            widest = max(widest, rows * at_work // 2)
    return kept, widest


def _kept(unit: Unit, adapter: Adapter, rows: int, width: int, gradient: bool) -> tuple[int, bool]:
    """Bytes that ``unit`` keeps for its backward pass, and whether a gradient comes back through what follows.

    Nothing is kept before the first layer that has a part of the network.
    """
    kept = 0
    for entry in unit.entries:
        if isinstance(entry, Layer):
            kept += rows * adapter.kept_for(entry, width, gradient=gradient) + adapter.full_weight(entry, width)
            gradient = gradient or bool(adapter.rank_on(entry))
        elif gradient:
            kept += rows * entry.elements * (_NORM_WIDTH if isinstance(entry, Norm) else width)
    return kept, gradient


def _lokr_weights(layer: Layer, rank: int) -> int:
    (out_small, out_large), (in_small, in_large) = _factors(layer.outputs), _factors(layer.inputs)
    large, area = out_small * in_small, layer.kernel**2
    if rank < max(out_large, in_large) / 2:
        return large + rank * (out_large + in_large * area)
    return large + out_large * in_large * area


def _factors(number: int) -> tuple[int, int]:
    """The two whole factors of ``number`` that are closest to each other."""
    small = next(n for n in range(int(number**0.5), 0, -1) if number % n == 0)
    return small, number // small
