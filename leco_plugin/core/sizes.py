"""Picture sizes of a walk: dynamic resolution and SDXL's size conditioning."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

BUCKET_STEP = 64
"""Pixels between two sizes of a dynamic resolution."""


def draw_resolution(resolution: tuple[int, int], dynamic: bool, generator: Generator) -> tuple[int, int]:
    """(height, width) of one walk in pixels.

    A square ``resolution`` that is ``dynamic`` gives each side its own draw, in steps of 64 pixels from half of
    it to all of it (sd-scripts' buckets); a rectangle, or a side under 64 pixels, stays as it is.
    """
    height, width = resolution
    if not dynamic or height != width or height < BUCKET_STEP:
        return resolution
    least = max(1, height // 2 // BUCKET_STEP)
    sides = torch.randint(least, height // BUCKET_STEP + 1, (2,), generator=generator) * BUCKET_STEP
    return int(sides[0]), int(sides[1])


def size_conditioning(resolution: tuple[int, int], dynamic_crops: bool, generator: Generator) -> Tensor:
    """(6,) float32: original height and width, crop top and left, target height and width, in pixels.

    With ``dynamic_crops`` the picture is a crop, anywhere, of an original one to three times its size
    (sd-scripts' rule); otherwise it is the whole original. Source: SDXL, arXiv:2307.01952, section 2.2.
    """
    height, width = resolution
    if not dynamic_crops:
        return torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
    scale = 1 + 2 * torch.rand((), generator=generator).item()
    original = int(height * scale), int(width * scale)
    crop = [_draw_offset(whole - part, generator) for whole, part in zip(original, resolution, strict=True)]
    return torch.tensor([*original, *crop, height, width], dtype=torch.float32)


def _draw_offset(room: int, generator: Generator) -> int:
    return int(torch.randint(0, max(room, 1), (), generator=generator))
