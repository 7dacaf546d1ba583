"""The built-in networks as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leco_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from leco_plugin.config.schema import JobConfig
    from leco_plugin.contracts import Denoiser
    from leco_plugin.network.lycoris import PeftLycoris
    from leco_plugin.network.peft_lora import PeftLora


@hookimpl
def leco_create_network(job: JobConfig, denoiser: Denoiser, seed: int) -> PeftLora | PeftLycoris:
    """PEFT's networks: lora, loha, lokr."""
    from leco_plugin.network.create import create_network

    return create_network(job.network, denoiser.module, seed)
