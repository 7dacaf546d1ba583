"""What keeps a UNet small and fast, and what a platform lacks for it."""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from leco_plugin.config.schema import MemoryConfig
from leco_plugin.errors import ModelError
from leco_plugin.families.compiled import compile_blocks
from leco_plugin.families.fp8 import narrow

_COMPILERS = ("g++", "clang++", "cl")


def check_platform(memory: MemoryConfig, device: torch.device) -> None:
    """Raise ModelError for what ``memory`` asks for and this machine lacks; before a model is loaded."""
    if memory.attention == "xformers":
        if device.type != "cuda":
            raise ModelError(f"xformers works on CUDA devices only, not on {device}", fix="set memory.attention: sdpa")
        if importlib.util.find_spec("xformers") is None:
            raise ModelError("xformers is not installed", fix="pip install xformers, or set memory.attention: sdpa")
    if memory.attention == "mem_eff" and importlib.util.find_spec("torch.nn.attention") is None:
        raise ModelError("memory.attention: mem_eff needs torch 2.3 or newer", fix="set memory.attention: sdpa")
    if memory.torch_compile and memory.dynamo_backend == "inductor":
        _check_inductor(device)


def _check_inductor(device: torch.device) -> None:
    fix = "take memory.torch_compile out"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ModelError("torch_compile needs triton, which is not installed", fix=f"pip install triton, or {fix}")
    if device.type == "cpu" and not any(map(shutil.which, _COMPILERS)):
        raise ModelError(
            "torch_compile needs a C++ compiler on the CPU, and there is none", fix=f"install g++, or {fix}"
        )


def apply_memory(unet: UNet2DConditionModel, memory: MemoryConfig) -> None:
    """Change a loaded UNet as ``memory`` says; it computes the same, but for the rounding of fp8."""
    if memory.attention == "xformers":
        unet.enable_xformers_memory_efficient_attention()
    else:
        unet.set_attn_processor(AttnProcessor2_0() if memory.attention == "sdpa" else MemoryEfficientProcessor())
    if memory.fp8_base:
        narrow(unet)
    if memory.torch_compile:
        compile_blocks(cast(nn.Module, unet), memory.dynamo_backend)


class MemoryEfficientProcessor(AttnProcessor2_0):  # type: ignore[misc]
    """torch's attention without the kernel that holds the whole matrix of attention."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Attention of one layer, as diffusers calls it."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]):
            return super().__call__(*args, **kwargs)
