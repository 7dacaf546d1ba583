"""Flow models of a few channels with random weights: Z-Image and Sana, as diffusers folders."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    SanaTransformer2DModel,
    ZImageTransformer2DModel,
)
from flow_models import _word_tokenizer
from small_models import vae_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

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


def sana_folder(folder: Path) -> Path:
    """Sana, whose scheduler is not Euler's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size = _word_tokenizer(folder / "tokenizer", tokenizer_class="GemmaTokenizer")
        text = Gemma2Config(
            vocab_size=size, hidden_size=_WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8,
        )  # fmt: skip
        transformer = SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8,
            num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=_WIDTH, patch_size=1,
            caption_channels=_WIDTH,
        )  # fmt: skip
        vae = AutoencoderDC(
            in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock",) * 6,
            decoder_block_types=("ResBlock",) * 6, encoder_block_out_channels=(4,) * 6,
            decoder_block_out_channels=(4,) * 6, encoder_layers_per_block=(1,) * 6, decoder_layers_per_block=(1,) * 6,
            encoder_qkv_multiscales=((),) * 6, decoder_qkv_multiscales=((),) * 6, downsample_block_type="conv",
            upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
        )  # fmt: skip
        for parameter in transformer.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape)
        parts = {"transformer": transformer, "text_encoder": Gemma2Model(text), "vae": vae}
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    parts["scheduler"] = DPMSolverMultistepScheduler(**flow)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return folder


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    letters = {chr(code): number for number, code in enumerate(range(32, 127), start=2)}
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, **letters}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}!{% endfor %}"
    return fast
