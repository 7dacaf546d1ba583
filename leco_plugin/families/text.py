"""Prompts as the conditioning of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorRows:
    """Conditioning of R rows."""

    text: Tensor
    """(R, tokens, width)."""
    pooled: Tensor | None = None
    """(R, width), where the family has one."""


@dataclass(frozen=True)
class TensorTable:
    """Conditioning of P prompts, on the device."""

    text: Tensor
    """(P, tokens, width)."""
    pooled: Tensor | None = None

    def rows(self, prompts: Sequence[int]) -> TensorRows:
        """Conditioning of a batch whose row i has the prompt number ``prompts[i]``."""
        pooled = None if self.pooled is None else _gather(self.pooled, prompts)
        return TensorRows(_gather(self.text, prompts), pooled)


def _gather(table: Tensor, prompts: Sequence[int]) -> Tensor:
    # stacked views, not indexing by a tensor: an index would have to travel to the device in every step
    return torch.stack([table[prompt] for prompt in prompts])
