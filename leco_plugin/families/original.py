"""Tensors of a single-file model under the names of diffusers and transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn

from leco_plugin.checkpoint import Checkpoint
from leco_plugin.errors import ModelError

UNET, VAE = "model.diffusion_model.", "first_stage_model."
_BLOCK = "transformer.resblocks."
_OPEN_CLIP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPEN_CLIP_LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


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


def text_tensors(file: Checkpoint, prefix: str, layers: int) -> dict[str, Tensor]:
    """The weights of a text encoder with this prefix, OpenAI's or OpenCLIP's, without ``text_model.`` in front.

    OpenCLIP's encoders may hold more than the first ``layers`` layers; those are left out.
    """
    if prefix.endswith("transformer."):
        found = ((key.removeprefix("text_model."), tensor) for key, tensor in file.under(prefix))
        return {key: tensor for key, tensor in found if key != "embeddings.position_ids"}
    return {key: tensor for name, value in file.under(prefix) for key, tensor in _open_clip(name, value, layers)}


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


def _open_clip(name: str, tensor: Tensor, layers: int) -> Iterator[tuple[str, Tensor]]:
    if name in _OPEN_CLIP:
        yield _OPEN_CLIP[name], tensor
    elif name == "text_projection":
        # OpenCLIP multiplies from the left, a linear layer from the right
        yield "text_projection.weight", tensor.T.contiguous()
    elif name.startswith(_BLOCK):
        number, _, rest = name.removeprefix(_BLOCK).partition(".")
        if int(number) < layers:
            yield from _open_clip_layer(f"encoder.layers.{number}", rest, tensor)


def _open_clip_layer(layer: str, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    part, _, kind = name.rpartition(".")
    if name.startswith("attn.in_proj_"):
        # query, key and value are one matrix there
        kind = name.removeprefix("attn.in_proj_")
        for letter, rows in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{layer}.self_attn.{letter}_proj.{kind}", rows.contiguous()
    else:
        yield f"{layer}.{_OPEN_CLIP_LAYERS[part]}.{kind}", tensor
