"""Dropout of a LoRA: in the student's pass only, never in the walk or the teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Dropout:
    """Probabilities, each off at 0. Source of the three: sd-scripts, networks/lora.py."""

    neuron: float = 0.0
    """Of every number between down and up."""
    rank: float = 0.0
    """Of a whole rank in a row of the batch."""
    module: float = 0.0
    """Of a layer's whole effect in a call."""

    def apply(self, between: Tensor) -> Tensor:
        """Drop from (R, ..., rank) of a linear layer or (R, rank, h, w) of a convolution; what stays is scaled up."""
        dropped = functional.dropout(between, self.neuron) if self.neuron else between
        if self.rank:
            ranks = between.shape[1] if between.ndim == 4 else between.shape[-1]
            kept = torch.rand(between.shape[0], ranks, device=between.device) >= self.rank
            places = (-1, ranks, 1, 1) if between.ndim == 4 else (-1, *[1] * (between.ndim - 2), ranks)
            dropped = dropped * kept.reshape(places) / (1 - self.rank)
        if self.module:
            # on the device, so that nothing waits for the draw; the module's other rows are not scaled up
            dropped = dropped * (torch.rand((), device=between.device) >= self.module)
        return dropped
