"""Prompts of flow models: each encoded by itself, and brought together for a batch as its transformer takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Text = Mapping[str, Tensor]
"""What one prompt becomes: tensors without a batch dimension."""


@dataclass(frozen=True)
class FlowRows:
    """The text of R rows, one entry a row: prompts of different lengths meet in a batch."""

    each: Sequence[Text]

    def stacked(self, name: str) -> Tensor:
        """(R, ...) of entries that are equally long."""
        return torch.stack([row[name] for row in self.each])

    def padded(self, name: str) -> Tensor:
        """(R, longest, ...), with zeros behind the shorter ones."""
        return nn.utils.rnn.pad_sequence([row[name] for row in self.each], batch_first=True)

    def listed(self, name: str) -> list[Tensor]:
        """R tensors of their own lengths."""
        return [row[name] for row in self.each]

    def mask(self, name: str) -> Tensor:
        """(R, longest): true where ``padded`` holds a row's own tokens."""
        lengths = [len(row[name]) for row in self.each]
        device = self.each[0][name].device
        return torch.stack([torch.arange(max(lengths), device=device) < length for length in lengths])


@dataclass(frozen=True)
class FlowTable:
    """The text of every distinct prompt, on the device."""

    each: Sequence[Text]

    def rows(self, prompts: Sequence[int]) -> FlowRows:
        """The text of a batch whose row i has the prompt number ``prompts[i]``."""
        return FlowRows([self.each[prompt] for prompt in prompts])
