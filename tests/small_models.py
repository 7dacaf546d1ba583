"""Stable Diffusion models of every family with a few channels and random weights, as diffusers folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from models import SD_SCHEDULE
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

FIRST_WIDTH, SECOND_WIDTH = 16, 24
WIDTHS = {"sd1": FIRST_WIDTH, "sd2": SECOND_WIDTH, "sdxl": FIRST_WIDTH + SECOND_WIDTH}
"""Width of the text that the UNet of a family reads."""
_START, _END = "<|startoftext|>", "<|endoftext|>"


def unet_config(family: str) -> dict[str, Any]:
    """The UNet of a family with all its kinds of blocks, at eight to sixteen channels."""
    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTHS[family],
        "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    if family == "sd2":
        config |= {"use_linear_projection": True, "attention_head_dim": (2, 4)}
    if family == "sdxl":
        config |= {
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 1, 2),
            "attention_head_dim": (2, 4, 4),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": SECOND_WIDTH + 6 * 8,
        }
    return config


def vae_config() -> dict[str, Any]:
    """A VAE of eight channels that divides both sides by 8, as the real ones do."""
    return {
        "block_out_channels": (4, 4, 4, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "sample_size": 64,
    }


def text_config(number: int, tokenizer: CLIPTokenizer, family: str) -> dict[str, Any]:
    """Text encoder ``number`` of a family: OpenAI's kind, or OpenCLIP's for SD2 and for the second of SDXL."""
    open_clip = family == "sd2" or number == 1
    width = SECOND_WIDTH if open_clip else FIRST_WIDTH
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "projection_dim": width,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "hidden_act": "gelu" if open_clip else "quick_gelu",
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def letter_tokenizer(folder: Path, pad: str = _END) -> CLIPTokenizer:
    """CLIP's tokenizer without merges: every letter is a token."""
    letters = [chr(code) for code in range(33, 127)]
    words = ["!", *[letter for letter in letters if letter != "!"], *[f"{letter}</w>" for letter in letters]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate([*words, _START, _END])}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": pad, "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "CLIPTokenizer"}))
    return CLIPTokenizer.from_pretrained(folder)


def build_pipeline(family: str, scratch: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Any:
    """diffusers' own pipeline around a model of ``family`` with random weights."""
    schedule = {**SD_SCHEDULE, "prediction_type": prediction_type}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet_config(family)),
            "vae": AutoencoderKL(**vae_config()),
            "scheduler": DDIMScheduler(**schedule),
            "tokenizer": letter_tokenizer(scratch / "tokenizer", "!" if family == "sd2" else _END),
        }
        parts["text_encoder"] = CLIPTextModel(CLIPTextConfig(**text_config(0, parts["tokenizer"], family)))
        if family == "sdxl":
            second = letter_tokenizer(scratch / "tokenizer_2", "!")
            parts["tokenizer_2"] = second
            parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**text_config(1, second, family)))
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            _spread(part, seed + len(name))
            part.eval().requires_grad_(False)
    if family == "sdxl":
        return StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def model_folder(family: str, folder: Path, *, prediction_type: str = "epsilon") -> tuple[Path, Any]:
    """A random model of ``family`` saved as a diffusers folder, and the pipeline that it was saved from."""
    pipeline = build_pipeline(family, folder / "scratch", prediction_type=prediction_type)
    pipeline.save_pretrained(folder / "model")
    return folder / "model", pipeline


def _spread(module: torch.nn.Module, seed: int) -> None:
    """Make biases and norms random too: a mapping that mixes them up would go unseen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
