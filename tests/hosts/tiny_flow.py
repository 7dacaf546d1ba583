"""A flow model of a few channels with random weights: Z-Image, as a diffusers folder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from small_models import vae_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

_WIDTH = 16


def z_image_folder(folder: Path) -> Path:
    """Save the parts of the model into ``folder``, each where diffusers has it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = _byte_tokenizer()
        text = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=_WIDTH,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=600,
        )
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=48,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=_WIDTH,
            axes_dims=[8, 8, 8],
            axes_lens=[640, 64, 64],
        )
        # padding begins as zeros, and real weights are not
        for parameter in transformer.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape)
        vae = AutoencoderKL(**vae_config(), shift_factor=0.1, scaling_factor=0.4)
        parts = {"transformer": transformer, "text_encoder": Qwen3ForCausalLM(text), "vae": vae}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    letters = {chr(code): number for number, code in enumerate(range(32, 127), start=2)}
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, **letters}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}!{% endfor %}"
    return fast
