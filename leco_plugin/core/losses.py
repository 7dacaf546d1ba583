"""Losses that let large errors count for less than their square."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from leco_plugin.core.objective import precise, squared_error

LossType = Literal["l2", "l1", "huber", "smooth_l1"]
WidthSchedule = Literal["constant", "exponential", "snr"]
_TRAINING_TIMESTEPS = 1000


def row_errors(prediction: Tensor, target: Tensor, kind: LossType, width: Tensor | None = None) -> Tensor:
    """Error of every row: (R, C, h, w) twice -> (R,), float32 or wider.

    ``huber`` and ``smooth_l1`` are their smooth forms ``2 c (sqrt(d^2 + c^2) - c)``, for smooth_l1 over c, with
    ``width`` c (R,): d^2 (over c) where the difference d is small, 2 c |d| (over c) where it is large.
    Source: arXiv:2403.16728.
    """
    if kind == "l2":
        return squared_error(prediction, target)
    difference = precise(prediction) - precise(target)
    if kind == "l1":
        return difference.abs().flatten(1).mean(1)
    assert width is not None
    c = width.to(difference.dtype).reshape(-1, *[1] * (difference.dim() - 1))
    errors = 2 * ((difference.square() + c.square()).sqrt() - c)
    return (errors * c if kind == "huber" else errors).flatten(1).mean(1)


def huber_width(smallest: float, schedule: WidthSchedule, timesteps: Tensor, snr: Tensor) -> Tensor:
    """Width c (R,) at ``timesteps`` (R,) with signal-to-noise ratio ``snr`` (R,).

    ``constant`` is ``smallest`` everywhere; the others fall from 1 without noise to ``smallest`` in pure noise.
    """
    if schedule == "exponential":
        return torch.exp(math.log(smallest) / _TRAINING_TIMESTEPS * timesteps.float())
    if schedule == "snr":
        # 1 / (1 + sigma), with sigma = snr ** -0.5, in a form that also holds at snr 0
        kept = snr.sqrt() / (1 + snr.sqrt())
        return (1 - smallest) * kept.square() + smallest
    return torch.full_like(snr, smallest)
