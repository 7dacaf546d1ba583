"""What a run in the host is to LECO's observers, and to a user who watches its beginning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leco_plugin.config.run import RunDescription
from leco_plugin.hosts import description
from leco_plugin.hosts.onetrainer.run import Plan

_SHOWN = (
    "base_model_name", "model_type", "epochs", "learning_rate", "learning_rate_scheduler",
    "gradient_accumulation_steps", "peft_type", "lora_rank", "lora_alpha", "train_dtype", "ema", "loss_weight_fn",
    "offset_noise_weight", "layer_filter",
)  # fmt: skip
"""Of the host's config, what a run is told apart by."""


def describe(plan: Plan, config: Any) -> RunDescription:
    """The run of a plan with the host's config; its history goes into the workspace, where the host's own files are."""
    shown = {name: getattr(config, name) for name in _SHOWN if hasattr(config, name)}
    optimizer = getattr(config, "optimizer", None)
    shown |= {
        "optimizer": getattr(optimizer, "optimizer", optimizer),
        "epoch_steps": plan.epoch_steps,
        "seed": plan.seed,
    }
    return description.describe(
        plan.pairs,
        plan.leco,
        shown,
        name=Path(config.output_model_destination).stem or "lora",
        folder=Path(config.workspace_dir).absolute(),
        host="onetrainer",
        model=str(config.base_model_name),
    )


def facts(plan: Plan, config: Any) -> Iterator[tuple[str, str]]:
    """What a user wants to see before waiting."""
    return description.facts(
        plan.pairs,
        plan.leco,
        seed=plan.seed,
        walk=plan.sampler,
        model=f"{config.base_model_name} ({config.model_type})",
        network=f"{config.peft_type}, rank {config.lora_rank}, alpha {config.lora_alpha:g}",
        steps=f"{plan.steps} ({plan.epochs} epochs of {plan.epoch_steps}) at lr {config.learning_rate:g}",
    )
