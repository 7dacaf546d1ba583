"""The parts of the built-in models with fresh weights; how large they are, the shipped folders' configs tell."""

import math
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, ZImageTransformer2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from leco_plugin.tiny import FLOW_FOLDER, MODEL_FOLDER

SCALING_FACTOR: Final = 0.18215
"""What SD multiplies its VAE's latents by; the tiny VAE's latents have std 1 / 0.18215 to suit it."""


def fresh(kind: Any, folder: Path, part: str) -> Any:
    """A part of diffusers' or transformers' class ``kind`` by the config in ``folder``, with random weights."""
    if hasattr(kind, "config_class"):
        return kind(kind.config_class.from_pretrained(folder / part))
    return kind.from_config(kind.load_config(folder, subfolder=part))


def new_unet() -> UNet2DConditionModel:
    """Latents (B, 4, 8, 8), text (B, 77, 64) -> predicted noise (B, 4, 8, 8), at first exactly 0."""
    unet: UNet2DConditionModel = fresh(UNet2DConditionModel, MODEL_FOLDER, "unet")
    _silence_branches(unet)
    _zero(unet.conv_out)
    return unet


def new_vae() -> AutoencoderKL:
    """Pictures (B, 3, 64, 64) in -1..1 <-> latents (B, 4, 8, 8)."""
    vae: AutoencoderKL = fresh(AutoencoderKL, MODEL_FOLDER, "vae")
    _silence_branches(vae)
    with torch.no_grad():
        # a nearly noiseless start: the decoder learns nothing while the noise drowns the picture
        weight, bias = quant_conv(vae).parameters()
        weight[4:].zero_()
        bias[4:].fill_(-6.0)
    return vae


def new_transformer() -> ZImageTransformer2DModel:
    """Latents (4, 1, 8, 8), text (n, 64) -> picture - noise, at first exactly 0."""
    transformer: ZImageTransformer2DModel = fresh(ZImageTransformer2DModel, FLOW_FOLDER, "transformer")
    with torch.no_grad():
        for block in (*transformer.layers, *transformer.noise_refiner):
            modulation = block.adaLN_modulation[0]
            _zero(modulation)
            # both gates slightly open: shut, nothing behind them would learn
            modulation.bias.view(4, -1)[[1, 3]] = 0.3
        _zero(transformer.all_final_layer["2-1"].linear)
        transformer.x_pad_token.normal_(std=0.02)
        transformer.cap_pad_token.normal_(std=0.02)
    return transformer


@torch.no_grad()
def scale_latents(vae: AutoencoderKL, factor: float) -> None:
    """Multiply the latents of ``vae`` by ``factor`` in place; it decodes the same pictures as before.

    The first half of quant_conv's output is the mean, which scales; the second is the log-variance, which shifts.
    """
    weight, bias = quant_conv(vae).parameters()
    channels = len(bias) // 2
    weight[:channels] *= factor
    bias[:channels] *= factor
    bias[channels:] += 2.0 * math.log(factor)
    vae.post_quant_conv.weight /= factor


def quant_conv(vae: Any) -> nn.Conv2d:
    """The last layer of the encoder, which diffusers types as optional and SD always has."""
    layer: nn.Conv2d = vae.quant_conv
    return layer


def _silence_branches(model: nn.Module) -> None:
    """Zero the last layer of every residual branch, without which so small a model gets stuck early."""
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            _zero(module.conv2)
        elif isinstance(module, Transformer2DModel):
            _zero(module.proj_out)
        elif isinstance(module, Attention) and isinstance(model, AutoencoderKL):
            # inside a Transformer2DModel proj_out already does it
            _zero(module.to_out[0])


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def to_tensor(pixels: Tensor) -> Tensor:
    """uint8 (B, h, w, 3) -> float32 (B, 3, h, w) in -1..1, laid out for fast convolutions on a CPU."""
    pictures = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return pictures.contiguous(memory_format=torch.channels_last)
