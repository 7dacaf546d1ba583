"""The built-in LoRA network as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leco_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from leco_plugin.config.schema import JobConfig
    from leco_plugin.contracts import Denoiser
    from leco_plugin.network.peft_lora import PeftLora


@hookimpl
def leco_create_network(job: JobConfig, denoiser: Denoiser, seed: int) -> PeftLora | None:
    """PEFT's LoRA for `network.type: lora`."""
    from leco_plugin.network.peft_lora import PeftLora

    if job.network.type != "lora":
        return None
    return PeftLora(denoiser.module, rank=job.network.linear, alpha=job.network.linear_alpha, seed=seed)
