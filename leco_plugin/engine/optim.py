"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from leco_plugin.config.schema import TrainConfig


def make_optimizer(train: TrainConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that ``train.optimizer`` names, at the peak learning rate."""
    # fused and foreach kernels differ in rounding; foreach=False keeps CPU runs the same everywhere
    on_cpu = parameters[0].device.type == "cpu"
    return torch.optim.AdamW(parameters, lr=train.lr, foreach=False if on_cpu else None)


def make_schedule(train: TrainConfig, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning-rate schedule over ``train.steps`` optimizer steps, warm-up included."""
    from diffusers.optimization import get_scheduler

    name: str = train.lr_scheduler
    if name == "constant" and train.lr_warmup_steps:
        name = "constant_with_warmup"
    schedule = get_scheduler(name, optimizer, num_warmup_steps=train.lr_warmup_steps, num_training_steps=train.steps)
    return cast(torch.optim.lr_scheduler.LRScheduler, schedule)
