"""The parts of the tiny flow model, untrained: Z-Image in every way but size (1.5 M parameters without the VAE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from leco_plugin.tiny.architecture import WORDS, byte_letters

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ZImagePipeline

TEXT_WIDTH: Final = 64
WIDTH: Final = 96
TEXT_TOKENS: Final = 32
"""What a prompt is padded to: Z-Image fills up to a multiple of 32, and no prompt of the little world is longer."""
SHIFT: Final = 2.0
"""Of the schedule: fewer steps at little noise than at much."""

_SPACE = "\u0120"
"""As this kind of tokenizer writes it."""
_PATCH = "2-1"
_PAD, _START, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }}\n {{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant\n{% endif %}"
)


def new_tokenizer() -> Qwen2Tokenizer:
    """Bytes, and one token for each word of the little world after a space; with a chat template."""
    letters = list(byte_letters())
    vocabulary, merges = list(letters), []
    for word in (*WORDS, "user", "assistant"):
        head = _SPACE
        # merged from the front, words that end alike cannot cut each other's pieces
        for letter in word:
            if (head, letter) not in merges:
                merges.append((head, letter))
            head += letter
            if head not in vocabulary:
                vocabulary.append(head)
    vocabulary += [_PAD, _START, _END]
    tokenizer: Qwen2Tokenizer = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(vocabulary)},
        merges=merges,
        additional_special_tokens=[_START, _END],
        model_max_length=512,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def new_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3Model:
    """Three layers of width 64; the output of the second is what Z-Image reads."""
    end = tokenizer.convert_tokens_to_ids(_PAD)
    return Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=end,
            bos_token_id=end,
        )
    )


def new_transformer() -> ZImageTransformer2DModel:
    """Latents (4, 1, 8, 8), text (n, 64) -> picture - noise, at first exactly 0."""
    transformer: ZImageTransformer2DModel = ZImageTransformer2DModel(
        in_channels=4,
        dim=WIDTH,
        n_layers=5,
        n_refiner_layers=1,
        n_heads=3,
        n_kv_heads=3,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=[8, 12, 12],
        axes_lens=[256, 32, 32],
        rope_theta=256.0,
        t_scale=1000.0,
    )
    with torch.no_grad():
        for block in (*transformer.layers, *transformer.noise_refiner):
            modulation = block.adaLN_modulation[0]
            modulation.weight.zero_()
            modulation.bias.zero_()
            # both gates slightly open: shut, nothing behind them would learn
            modulation.bias.view(4, -1)[[1, 3]] = 0.3
        for parameter in transformer.all_final_layer[_PATCH].linear.parameters():
            parameter.zero_()
        transformer.x_pad_token.normal_(std=0.02)
        transformer.cap_pad_token.normal_(std=0.02)
    return transformer


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Flow matching, Euler, with a fixed shift."""
    scheduler: FlowMatchEulerDiscreteScheduler = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000, shift=SHIFT, use_dynamic_shifting=False
    )
    return scheduler


def new_pipeline(vae: AutoencoderKL) -> ZImagePipeline:
    """All of it around a VAE."""
    # this import is slow and talks of torchvision: a mistake in the arguments is told without it
    from diffusers import ZImagePipeline

    tokenizer = new_tokenizer()
    text_encoder = new_text_encoder(tokenizer)
    return ZImagePipeline(new_scheduler(), vae, text_encoder, tokenizer, new_transformer())


def predict(pipeline: ZImagePipeline, latents: Tensor, times: Tensor, captions: Sequence[str], rows: Tensor) -> Tensor:
    """Picture - noise (R, 4, 8, 8) for ``latents`` of that shape at ``times`` (R,): 0 is noise, 1 the picture.

    ``rows`` (R,) tells which of ``captions`` each has.
    """
    # a list of its own: the pipeline writes into it
    texts, _ = pipeline.encode_prompt(
        list(captions), do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
    )
    each = [texts[row] for row in rows.tolist()]
    said = pipeline.transformer([one[:, None] for one in latents], times, each, return_dict=False)[0]
    return torch.stack([one.squeeze(1) for one in said])
