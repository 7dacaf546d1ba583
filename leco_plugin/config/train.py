"""The `train:` section: steps, optimizer, schedule, loss and precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from leco_plugin.config.blame import refuse
from leco_plugin.config.kinds import DType, Finite, Frozen, LrScheduler, Optimizer, Params, StepsOrFraction, Whole
from leco_plugin.config.names import SamplerName

_ONLY_WITH: Mapping[str, tuple[str, ...]] = {
    "lr_decay_steps": ("warmup_stable_decay",),
    "lr_scheduler_num_cycles": ("cosine_with_restarts", "cosine_with_min_lr", "warmup_stable_decay"),
    "lr_scheduler_power": ("polynomial",),
    "lr_scheduler_min_lr_ratio": ("cosine_with_min_lr", "warmup_stable_decay"),
    "huber_c": ("huber", "smooth_l1"),
    "huber_schedule": ("huber", "smooth_l1"),
}
"""Options that only some choices of another one read."""


class TrainConfig(Frozen):
    """The optimization."""

    steps: Whole = Field(1600, ge=1)
    """Optimizer steps."""
    lr: Finite = Field(1e-4, ge=0)
    """Learning rate at its peak."""
    unet_lr: Finite | None = Field(None, ge=0)
    """Learning rate of the UNet's LoRA, all that LECO trains; `lr` when absent."""
    optimizer: Optimizer = "adamw"
    """What turns gradients into steps: adamw, adamw8bit, lion, adafactor, prodigy, ..., or `module.Class`."""
    optimizer_params: Params = Field(default_factory=dict)
    """What the optimizer is made with besides the learning rate, such as weight_decay."""
    lr_scheduler: LrScheduler = "constant"
    """How the learning rate goes from `lr` at the start to the end of the run."""
    lr_warmup_steps: StepsOrFraction = Field(0, ge=0)
    """Optimizer steps, or below 1 the fraction of them, in which the learning rate rises from 0 to `lr`."""
    lr_decay_steps: StepsOrFraction = Field(0, ge=0)
    """Optimizer steps, or below 1 the fraction of them, in which warmup_stable_decay falls at the end."""
    lr_scheduler_num_cycles: Whole = Field(1, ge=1)
    """Restarts of cosine_with_restarts; half waves of cosine_with_min_lr and warmup_stable_decay."""
    lr_scheduler_power: Finite = Field(1.0, gt=0)
    """Exponent of polynomial."""
    lr_scheduler_min_lr_ratio: Finite = Field(0.0, ge=0, le=1)
    """Where cosine_with_min_lr and warmup_stable_decay end, as a fraction of `lr`."""
    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    """How far the LoRA's prediction is from its goal; l2 is LECO's own."""
    huber_c: Finite = Field(0.1, gt=0)
    """Width of huber and smooth_l1: errors below it count squared, those above it by size."""
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    """How that width follows the timestep: not at all, or from 1 without noise down to `huber_c`."""
    gradient_accumulation: Whole = Field(1, ge=1)
    """Pairs whose gradients are averaged into one optimizer step."""
    max_grad_norm: Finite = Field(1.0, ge=0)
    """Gradients are clipped to this norm; 0 leaves them as they are."""
    min_snr_gamma: Finite | None = Field(None, gt=0)
    """Min-SNR weighting (arXiv:2303.09556); off when absent."""
    noise_offset: Finite = Field(0.0, ge=0)
    """Adds this much of one random number per channel to the first noise."""
    noise_scheduler: SamplerName = "ddim"
    """Sampler of the walk; flow models have one, flowmatch, which needs not be named."""
    dtype: DType = "fp32"
    """Precision of the base model and of autocast; LoRA weights and loss stay float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> TrainConfig:
        for option, choices in _ONLY_WITH.items():
            owner = "loss_type" if option.startswith("huber") else "lr_scheduler"
            default = type(self).model_fields[option].default
            if getattr(self, option) != default and getattr(self, owner) not in choices:
                fix = f"leave {option} out, or set {owner} to {' or '.join(choices)}"
                raise refuse(f"{option} means nothing to {owner} {getattr(self, owner)}", fix)
        return self

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of what is trained."""
        return self.lr if self.unet_lr is None else self.unet_lr

    def in_steps(self, steps_or_fraction: float) -> int:
        """A number of optimizer steps from one that may be a fraction of the run."""
        return int(steps_or_fraction * self.steps if steps_or_fraction < 1 else steps_or_fraction)
