"""Latents (R, C, h, w) in the layouts that transformers take them in, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """One way of handing latents over."""

    to: Callable[[Tensor], Any]
    """From (R, C, h, w)."""
    back: Callable[[Any, int, int], Tensor]
    """To (R, C, h, w), from what the transformer gives and (h, w)."""
    channels: int = 1
    """Channels that the transformer counts for one of the latents."""
    pixels: int = 1
    """Latent pixels of the VAE in one of these, along a side."""
    cell: int = 2
    """Latent pixels in a token, along a side: h and w are multiples of it."""


def _pack(x: Tensor) -> Tensor:
    rows, channels, h, w = x.shape
    cells = x.view(rows, channels, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(rows, h * w // 4, 4 * channels)


def _unpack(x: Tensor, h: int, w: int) -> Tensor:
    rows, _, channels = x.shape
    cells = x.view(rows, h // 2, w // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(rows, channels // 4, h, w)


def _flatten(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _unflatten(x: Tensor, h: int, w: int) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], h, w)


def _listed(x: Tensor) -> list[Tensor]:
    return list(x.unsqueeze(2))


def _unlisted(x: Sequence[Tensor], h: int, w: int) -> Tensor:
    return torch.stack(list(x)).squeeze(2)


LAYOUTS: Mapping[str, Layout] = {
    "plain": Layout(lambda x: x, lambda x, h, w: x),
    "packed": Layout(_pack, _unpack, channels=4),
    # a token is one of these: the VAE's 2 x 2 are in the channels already
    "flat": Layout(_flatten, _unflatten, pixels=2, cell=1),
    "listed": Layout(_listed, _unlisted),
}
"""plain: (R, C, h, w); packed: (R, h w / 4, 4 C); flat: (R, h w, C); listed: R of (C, 1, h, w)."""
