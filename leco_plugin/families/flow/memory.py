"""What makes large transformers fit: quantization and offloading by diffusers, and checkpointing of their blocks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from leco_plugin.config.schema import MemoryConfig
from leco_plugin.core.forward import give_forward
from leco_plugin.errors import ModelError

_PACKAGES = {"fp8": "torchao", "int8": "torchao", "nf4": "bitsandbytes"}


def check_memory(memory: MemoryConfig, device: torch.device) -> None:
    """Raise ModelError for what ``memory`` asks for and this machine lacks."""
    if memory.offload == "stream" and device.type not in ("cuda", "xpu"):
        message = f"memory.offload: stream works on CUDA devices only, not on {device}"
        raise ModelError(message, fix="set memory.offload: layers")
    if memory.quantize is None:
        return
    package = _PACKAGES[memory.quantize]
    if importlib.util.find_spec(package) is None:
        raise ModelError(f"memory.quantize: {memory.quantize} needs {package}", fix=f"pip install {package}")
    if memory.quantize == "nf4" and device.type == "cpu":
        raise ModelError("memory.quantize: nf4 works on CUDA devices only", fix="set memory.quantize: int8")


def quantization(memory: MemoryConfig, dtype: torch.dtype, bare: nn.Module) -> dict[str, Any]:
    """Options with which diffusers loads a model in as many bits as ``memory.quantize`` says.

    Linears around the blocks stay as they are: they are small, and everything goes through them. ``bare`` is the
    transformer without weights.
    """
    import diffusers

    blocks = {name for name, part in bare.named_children() if isinstance(part, nn.ModuleList)}
    linears = [name for name, layer in bare.named_modules() if isinstance(layer, nn.Linear)]
    around = [name for name in linears if name.split(".")[0] not in blocks]
    if memory.quantize == "nf4":
        # diffusers leaves out every layer of such a name, wherever it is
        inner = {name.rpartition(".")[2] for name in linears if name.split(".")[0] in blocks}
        config = diffusers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=[name for name in around if name not in inner],
        )  # fmt: skip
        return {"quantization_config": config}
    kinds = import_module("torchao.quantization")
    kind = kinds.Int8WeightOnlyConfig if memory.quantize == "int8" else kinds.Float8WeightOnlyConfig
    kept = [f"{name}.weight" for name in around]
    return {"quantization_config": diffusers.TorchAoConfig(kind(), modules_to_not_convert=kept)}


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
        give_forward(block, _again)


def _again(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **more: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(block, *inputs, **more)
    return checkpoint(forward, block, *inputs, use_reentrant=False, **more)
