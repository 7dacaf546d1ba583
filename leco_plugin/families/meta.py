"""Models without weights: the real classes on torch's meta device, from their configs alone; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
import transformers
from torch import nn

from leco_plugin.config.schema import MemoryConfig, ModelConfig
from leco_plugin.contracts import Denoiser, TextTable
from leco_plugin.errors import ModelError
from leco_plugin.families.flow.example import example_text
from leco_plugin.families.flow.load import flow_denoiser
from leco_plugin.families.flow.memory import checkpoint_blocks
from leco_plugin.families.flow.rows import FlowTable
from leco_plugin.families.flow.source import FlowSource
from leco_plugin.families.folder import numbered
from leco_plugin.families.fp8 import narrow
from leco_plugin.families.load import DENOISERS, DTYPES, open_model, scheduler_config
from leco_plugin.families.placement import Placement
from leco_plugin.families.single_file import Source
from leco_plugin.families.source import CLASSES
from leco_plugin.families.text import TensorTable

_TOKENS_PER_CHUNK, _CHUNK = 77, 75
_NF4_BYTES = 0.5 + 4 / 64
"""Of a number: four bits, and a float32 for every 64 of them."""
_META, _CPU = torch.device("meta"), torch.device("cpu")


@dataclass(frozen=True)
class MetaModel:
    """A model of which everything is there but the numbers."""

    denoiser: Denoiser
    """``predict`` takes tensors on the meta device, although it calls its device the CPU."""
    text: TextTable
    """One prompt, of the length that the model reads."""
    weight_bytes: int
    """What the frozen weights take on the device while a call runs."""
    text_bytes: int
    """Weights of the text encoders that are on the device together."""

    def checkpoint(self) -> None:
        """Recompute activations in the backward pass from now on."""
        module = cast(Any, self.denoiser.module)
        if self.denoiser.prediction_type == "flow":
            checkpoint_blocks(module)
        else:
            module.train().enable_gradient_checkpointing()


def meta_model(model: ModelConfig, dtype: str, memory: MemoryConfig) -> MetaModel:
    """The model that a job names; ModelError where its configs are not on this disk, or it is of no known family."""
    path = Path(model.name_or_path).expanduser()
    if path.is_file() and path.suffix.lower() != ".safetensors":
        raise ModelError("only a .safetensors file tells what it holds before it is loaded")
    source = open_model(model, download=False)
    if isinstance(source, FlowSource):
        return _flow(source, model, DTYPES[dtype], memory)
    return _stable_diffusion(source, model, DTYPES[dtype], memory)


def _stable_diffusion(source: Source, model: ModelConfig, dtype: torch.dtype, memory: MemoryConfig) -> MetaModel:
    config = source.config("unet")
    unet = _denoiser_module("UNet2DConditionModel", config, dtype, memory)
    tokens = _TOKENS_PER_CHUNK * model.max_token_length // _CHUNK
    text, pooled = torch.empty(1, tokens, unet.config.cross_attention_dim, dtype=dtype, device=_META), None
    if unet.config.addition_embed_type is not None:
        # beside the six sizes, each of them embedded
        width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        pooled = torch.empty(1, width, dtype=dtype, device=_META)
    numbers = [
        _numbers(name, source.config(numbered("text_encoder", number)))
        for number, name in enumerate(CLASSES[source.family])
    ]
    denoiser = DENOISERS[source.family](source, unet, scheduler_config(source, model), _CPU)
    # one encoder after the other, in float32
    return MetaModel(denoiser, TensorTable(text, pooled), _held(unet, memory), 4 * max(numbers))


def _flow(source: FlowSource, model: ModelConfig, dtype: torch.dtype, memory: MemoryConfig) -> MetaModel:
    config = source.config("transformer")
    transformer = _denoiser_module(source.family.transformer, config, dtype, memory)
    denoiser = flow_denoiser(source, transformer, model, dtype, Placement(transformer, _CPU))
    text = example_text(source.family.name, config, denoiser.length, dtype, _META)
    encoders = {part: entry[1] for part, entry in source.index.items() if part.startswith("text_encoder") and entry[1]}
    numbers = sum(_numbers(name, source.config(part)) for part, name in encoders.items())
    return MetaModel(denoiser, FlowTable([text]), _held(transformer, memory), numbers * dtype.itemsize)


def _denoiser_module(name: str, config: Mapping[str, Any], dtype: torch.dtype, memory: MemoryConfig) -> Any:
    with _META:
        module = getattr(diffusers, name).from_config(config)
    for tensor in (*module.parameters(), *module.buffers()):
        # not the module's own `to`, which warns of layers that diffusers loads in another way
        tensor.data = tensor.data.to(dtype if tensor.is_floating_point() else tensor.dtype)
    module.eval().requires_grad_(False)
    if memory.fp8_base or memory.quantize:
        # torchao and bitsandbytes hold and widen weights in the same way, and do not know the meta device
        narrow(module)
    return module


def _held(module: nn.Module, memory: MemoryConfig) -> int:
    weights = {name: parameter.nbytes for name, parameter in module.named_parameters()}
    if memory.quantize == "nf4":
        narrowed = [name for name, parameter in module.named_parameters() if parameter.dtype == torch.uint8]
        weights |= {name: round(weights[name] * _NF4_BYTES) for name in narrowed}
    if memory.offload:
        # a layer that is computed with, and one that comes or goes
        return 2 * max(weights.values())
    return sum(weights.values()) + sum(buffer.nbytes for buffer in module.buffers())


def _numbers(name: str, config: Mapping[str, Any]) -> int:
    """In the weights of a text encoder."""
    kind: Any = getattr(transformers, name)
    with _META:
        encoder: nn.Module = kind(kind.config_class.from_dict(dict(config)))
    return sum(parameter.numel() for parameter in encoder.parameters())
