"""The built-in model loader as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leco_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    import torch

    from leco_plugin.config.schema import JobConfig
    from leco_plugin.families.flow.denoiser import FlowDenoiser
    from leco_plugin.families.sd import SDDenoiser


@hookimpl
def leco_load_model(job: JobConfig, device: torch.device) -> SDDenoiser | FlowDenoiser:
    """Any model that diffusers loads and that is of a known family; ModelError for others."""
    from leco_plugin.families.load import load_model

    return load_model(
        job.model,
        dtype=job.train.dtype,
        device=device,
        checkpointing=job.train.gradient_checkpointing,
        memory=job.memory,
        job=job,
    )
