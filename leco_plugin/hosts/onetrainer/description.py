"""What a run in the host is to LECO's observers, and to a user who watches its beginning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leco_plugin.config.run import Option, RunDescription, short_name
from leco_plugin.hosts.onetrainer.run import Plan

_SHOWN = (
    "model_type", "epochs", "learning_rate", "learning_rate_scheduler", "gradient_accumulation_steps", "peft_type",
    "lora_rank", "lora_alpha", "train_dtype", "ema", "loss_weight_fn", "offset_noise_weight", "layer_filter",
)  # fmt: skip
"""Of the host's config, what a run is told apart by."""


def describe(plan: Plan, config: Any) -> RunDescription:
    """The run of a plan with the host's config; its history goes into the workspace, where the host's own files are."""
    return RunDescription(
        name=Path(config.output_model_destination).stem or "lora",
        folder=Path(config.workspace_dir).absolute(),
        host="onetrainer",
        model=str(config.base_model_name),
        pairs=plan.pairs,
        preserve=plan.leco.preserve,
        options=_options(plan, config),
        own_console=True,
    )


def facts(plan: Plan, config: Any) -> Iterator[tuple[str, str]]:
    """What a user wants to see before waiting."""
    leco, targets = plan.leco, dict.fromkeys(repr(pair.target) for pair in plan.pairs if not pair.keeps)
    yield "model", f"{config.base_model_name} ({config.model_type})"
    yield "targets", ", ".join(targets)
    yield "pairs", str(len(plan.pairs))
    yield "network", f"{config.peft_type}, rank {config.lora_rank}, alpha {config.lora_alpha:g}"
    yield "steps", f"{plan.steps} ({plan.epochs} epochs of {plan.epoch_steps}) at lr {config.learning_rate:g}"
    if leco.preserve:
        yield "preserved", ", ".join(map(repr, leco.preserve))
    yield (
        "walk",
        (f"{leco.walk}, {leco.max_denoising_steps} {plan.sampler} steps, guidance {leco.denoise_guidance_scale:g}"),
    )
    yield "seed", str(plan.seed)


def _options(plan: Plan, config: Any) -> dict[str, Option]:
    optimizer = getattr(config, "optimizer", None)
    found: Mapping[str, Any] = {name: getattr(config, name) for name in _SHOWN if hasattr(config, name)}
    values = {
        "pairs": len(plan.pairs),
        "base_model_name": short_name(str(config.base_model_name)),
        **found,
        "optimizer": getattr(optimizer, "optimizer", optimizer),
        "epoch_steps": plan.epoch_steps,
        "seed": plan.seed,
        **{f"leco.{name}": value for name, value in plan.leco.model_dump(mode="json").items()},
    }
    return {name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in values.items()}
