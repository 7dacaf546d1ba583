"""Tensors of a single-file model under the names of diffusers and transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor, nn

from leco_plugin.checkpoint import Checkpoint
from leco_plugin.errors import ModelError

UNET, VAE = "model.diffusion_model.", "first_stage_model."
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def unet_tensors(
    file: Checkpoint, config: Mapping[str, Any], dtype: torch.dtype, device: torch.device | None
) -> dict[str, Tensor]:
    """The UNet's weights in ``dtype``; one tensor at a time goes to ``device`` where one is given."""
    tensors = {f"{UNET}{key}": tensor.to(device or "cpu", dtype) for key, tensor in file.under(UNET)}
    converted: dict[str, Tensor] = convert_ldm_unet_checkpoint(tensors, dict(config))
    return converted


def vae_tensors(file: Checkpoint, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The VAE's weights in float32."""
    # what belongs to the training of the VAE alone is left out
    tensors = {
        f"{VAE}{key}": tensor.float() for key, tensor in file.under(VAE) if not key.startswith(("loss.", "model_ema."))
    }
    converted: dict[str, Tensor] = convert_ldm_vae_checkpoint(tensors, dict(config))
    return converted


def text_tensors(file: Checkpoint, prefix: str, encoder: nn.Module) -> dict[str, Tensor]:
    """The weights of a text ``encoder`` with this prefix, OpenAI's or OpenCLIP's, without ``text_model.`` in front.

    OpenCLIP's encoders may hold more layers than ``encoder`` has; those are left out.
    """
    config: Any = encoder.config
    if prefix.endswith("transformer."):
        found = dict(file.under(prefix))
    else:
        held = {f"{prefix}{key}": tensor for key, tensor in file.under(prefix)}
        found = convert_open_clip_checkpoint(encoder, held, prefix)
    named = {key.removeprefix("text_model."): tensor for key, tensor in found.items()}
    more = {key for key in named if (layer := _LAYER.match(key)) and int(layer[1]) >= config.num_hidden_layers}
    return {key: named[key] for key in named.keys() - more - {"embeddings.position_ids"}}


def fill(module: nn.Module, tensors: Mapping[str, Tensor], file: Checkpoint) -> None:
    """Give ``module``, which was made without weights, its weights; ModelError where they are not those it has."""
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    for name, shape in wanted.items():
        if name not in tensors:
            raise _unfit(file, f"has nothing for {name} of the {type(module).__name__}")
        if tensors[name].shape != shape:
            raise _unfit(file, f"has {name} of shape {tuple(tensors[name].shape)} instead of {tuple(shape)}")
    for name in tensors:
        if name not in wanted:
            raise _unfit(file, f"has {name}, which the {type(module).__name__} of its family has not")
    module.load_state_dict(dict(tensors), assign=True)


def _unfit(file: Checkpoint, what: str) -> ModelError:
    return ModelError(f"{file.path} {what}", fix="if it is a variant of its family, use it as a diffusers folder")
