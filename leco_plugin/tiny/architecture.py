"""The parts of the tiny model, untrained: Stable Diffusion 1.x in every way but size (3.3 M parameters)."""

import json
import math
from pathlib import Path
from typing import Final, cast

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SCALING_FACTOR: Final = 0.18215
"""What SD multiplies its VAE's latents by; the tiny VAE's latents have std 1 / 0.18215 to suit it."""
TOKENS: Final = 77
TEXT_WIDTH: Final = 64
WORDS: Final = (
    *("a", "an", "the", "of", "on", "in", "at", "with", "and"),
    *("picture", "photo", "image", "drawing", "background", "shape"),
    *("circle", "square", "triangle", "star", "cross"),
    *("red", "orange", "yellow", "green", "blue", "purple"),
    *("small", "medium", "big", "white", "gray", "black"),
)
"""Words that are one token each; anything else is spelt out byte by byte."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_VAE_BLOCKS = 4


def write_tokenizer_files(folder: Path) -> None:
    """Write vocab.json and merges.txt, the files that every version of transformers reads."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = list(byte_letters())
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        # merged from the end, words that begin alike cannot cut each other's pieces
        tail = word[-1] + "</w>"
        for letter in reversed(word[:-1]):
            if (letter, tail) not in merges:
                merges.append((letter, tail))
            tail = letter + tail
            if tail not in vocabulary:
                vocabulary.append(tail)
    vocabulary += [_START, _END]
    numbered = {token: number for number, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The CLIP tokenizer of the files that ``write_tokenizer_files`` left in ``folder``."""
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS, pad_token=_END)
    return tokenizer


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 64; output (B, 77, 64)."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """Latents (B, 4, 8, 8), text (B, 77, 64) -> predicted noise (B, 4, 8, 8), at first exactly 0."""
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 64, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=16,
    )
    _silence_branches(unet)
    _zero(unet.conv_out)
    return unet


def new_vae() -> AutoencoderKL:
    """Pictures (B, 3, 64, 64) in -1..1 <-> latents (B, 4, 8, 8)."""
    vae: AutoencoderKL = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * _VAE_BLOCKS,
        up_block_types=("UpDecoderBlock2D",) * _VAE_BLOCKS,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=SCALING_FACTOR,
    )
    _silence_branches(vae)
    with torch.no_grad():
        # a nearly noiseless start: the decoder learns nothing while the noise drowns the picture
        weight, bias = quant_conv(vae).parameters()
        weight[4:].zero_()
        bias[4:].fill_(-6.0)
    return vae


def new_scheduler() -> DDIMScheduler:
    """SD 1.x's noise: epsilon, 1000 steps, scaled linear 0.00085 to 0.012."""
    scheduler: DDIMScheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    return scheduler


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
    post_quant_conv(vae).weight /= factor


def quant_conv(vae: AutoencoderKL) -> nn.Conv2d:
    """The last layer of the encoder, which diffusers types as optional and SD always has."""
    return cast("nn.Conv2d", vae.quant_conv)


def post_quant_conv(vae: AutoencoderKL) -> nn.Conv2d:
    """The first layer of the decoder, which diffusers types as optional and SD always has."""
    return cast("nn.Conv2d", vae.post_quant_conv)


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


def byte_letters() -> str:
    """The 256 letters that byte-level BPE writes bytes with: printable Latin-1 first, then stand-ins from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return "".join(map(chr, printable)) + "".join(chr(256 + k) for k in range(256 - len(printable)))


def to_tensor(pixels: Tensor) -> Tensor:
    """uint8 (B, h, w, 3) -> float32 (B, 3, h, w) in -1..1, laid out for fast convolutions on a CPU."""
    pictures = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return pictures.contiguous(memory_format=torch.channels_last)
