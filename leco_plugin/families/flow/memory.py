"""What makes large transformers fit: quantization and offloading by diffusers, and checkpointing of their blocks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from types import MethodType
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from leco_plugin.config.schema import MemoryConfig
from leco_plugin.errors import ModelError

_PACKAGES = {"fp8": "torchao", "int8": "torchao", "nf4": "bitsandbytes"}


def check_memory(memory: MemoryConfig, device: torch.device) -> None:
    """Raise ModelError for what ``memory`` asks for and a flow model or this machine lacks."""
    if memory.attention != "sdpa":
        raise ModelError(f"memory.attention {memory.attention} is for UNets", fix="set memory.attention: sdpa")
    if memory.quantize is None:
        return
    if memory.fp8_base:
        raise ModelError("memory.fp8_base and memory.quantize do the same", fix="keep one of the two")
    if memory.quantize == "nf4" and memory.offload:
        raise ModelError("weights in nf4 cannot be offloaded", fix="set memory.quantize: int8, or leave offload out")
    package = _PACKAGES[memory.quantize]
    if importlib.util.find_spec(package) is None:
        raise ModelError(f"memory.quantize: {memory.quantize} needs {package}", fix=f"pip install {package}")


def quantization(memory: MemoryConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Options with which diffusers loads a model in fewer bits; none where that is not asked for."""
    if memory.quantize is None:
        return {}
    import diffusers

    if memory.quantize == "nf4":
        config = diffusers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
        return {"quantization_config": config}
    kinds = import_module("torchao.quantization")
    kind = kinds.Int8WeightOnlyConfig if memory.quantize == "int8" else kinds.Float8WeightOnlyConfig
    return {"quantization_config": diffusers.TorchAoConfig(kind())}


def offload(transformer: nn.Module, memory: MemoryConfig, device: torch.device) -> None:
    """Have diffusers bring every layer to the device when it is used; before a network is attached, which stays there.

    Layer by layer, not block by block: a block would take the LoRA's weights with it.
    """
    cast(Any, transformer).enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        use_stream=memory.offload == "stream",
    )


def blocks_of(transformer: nn.Module) -> Iterator[nn.Module]:
    """The blocks that a transformer is made of, in order."""
    for part in transformer.children():
        if isinstance(part, nn.ModuleList):
            yield from part


def checkpoint_blocks(transformer: nn.Module) -> None:
    """Have every block compute its activations again in the backward pass.

    Around the block as a whole, with everything that it is given: diffusers' own leaves out the mask of Chroma's.
    """
    for block in blocks_of(transformer):
        block.forward = MethodType(partial(_again, block.forward), block)


def _again(forward: Callable[..., Any], block: nn.Module, *inputs: Any, **more: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **more)
    return checkpoint(forward, *inputs, use_reentrant=False, **more)
