"""Models without weights: the real classes on torch's meta device, from their configs alone; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from diffusers import UNet2DConditionModel
from torch import nn

from leco_plugin.config.schema import MemoryConfig, ModelConfig
from leco_plugin.errors import ModelError
from leco_plugin.families.folder import numbered
from leco_plugin.families.fp8 import narrow
from leco_plugin.families.load import _DENOISERS, _DTYPES, BUILTIN, open_model, scheduler_config
from leco_plugin.families.sd import SDDenoiser
from leco_plugin.families.source import CLASSES, Source
from leco_plugin.families.text import TensorTable

_TOKENS_PER_CHUNK, _CHUNK = 77, 75


@dataclass(frozen=True)
class MetaModel:
    """A model of which everything is there but the numbers."""

    denoiser: SDDenoiser
    """``predict`` takes tensors on the meta device; what it asks of its device is asked of the CPU."""
    text: TensorTable
    """One prompt, of the length that the model reads."""
    text_bytes: int
    """Weights of the text encoders that are on the device together."""

    def checkpoint(self) -> None:
        """Recompute activations in the backward pass from now on."""
        module = cast(Any, self.denoiser.module)
        module.train()
        module.enable_gradient_checkpointing()


def meta_model(model: ModelConfig, dtype: str, memory: MemoryConfig) -> MetaModel:
    """The model that a job names; ModelError where its configs are not on this disk, or it is of no known family."""
    source = open_model(_on_disk(model.name_or_path))
    with torch.device("meta"):
        # not diffusers' own `to`, which warns of layers that its loader treats in another way
        unet = nn.Module.to(UNet2DConditionModel.from_config(source.config("unet")), _DTYPES[dtype])
    unet.eval().requires_grad_(False)
    if memory.fp8_base:
        narrow(unet)
    denoiser = _DENOISERS[source.family](source, unet, scheduler_config(source, model), torch.device("cpu"))
    # one encoder at a time, in float32
    text_bytes = 4 * max(_text_numbers(source))
    return MetaModel(denoiser, _sd_text(unet, model, _DTYPES[dtype]), text_bytes)


def _on_disk(name: str) -> str:
    """Where the model is; of a hub id, the folder in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() != ".safetensors":
        raise ModelError("only a .safetensors file tells what it holds before it is loaded")
    if name == BUILTIN or path.exists():
        return name
    if path.suffix or path.is_absolute():
        raise ModelError(f"there is no {path}")
    try:
        return str(snapshot_download(name, local_files_only=True))
    except HFValidationError as error:
        raise ModelError(f"there is no folder {name!r}") from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{name} is not in the hub's cache on this machine; it is downloaded when a run starts"
        ) from error


def _sd_text(unet: nn.Module, model: ModelConfig, dtype: torch.dtype) -> TensorTable:
    config: Any = unet.config
    tokens = _TOKENS_PER_CHUNK * model.max_token_length // _CHUNK
    text = torch.empty(1, tokens, config.cross_attention_dim, dtype=dtype, device="meta")
    if config.addition_embed_type is None:
        return TensorTable(text)
    # beside the six sizes, each of them embedded
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return TensorTable(text, torch.empty(1, pooled, dtype=dtype, device="meta"))


def _text_numbers(source: Source) -> list[int]:
    """Numbers in the weights of each text encoder."""
    with torch.device("meta"):
        encoders = [
            _text_encoder(name, source.config(numbered("text_encoder", number)))
            for number, name in enumerate(CLASSES[source.family])
        ]
    return [sum(parameter.numel() for parameter in encoder.parameters()) for encoder in encoders]


def _text_encoder(name: str, config: Mapping[str, Any]) -> nn.Module:
    kind: Any = getattr(transformers, name)
    encoder: nn.Module = kind(kind.config_class.from_dict(dict(config)))
    return encoder
