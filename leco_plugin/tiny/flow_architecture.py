"""The parts of the tiny flow model, untrained: Z-Image in every way but size (1.5 M parameters without the VAE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from leco_plugin.tiny.architecture import WORDS, byte_letters

TEXT_WIDTH: Final = 64
WIDTH: Final = 96
TEXT_TOKENS: Final = 32
"""What a prompt is padded to: Z-Image fills up to a multiple of 32, and no prompt of the little world is longer."""
SHIFT: Final = 2.0
"""Of the schedule: fewer steps at little noise than at much."""

_SPACE = "\u0120"
"""As this kind of tokenizer writes it."""
_PICTURE_TOKENS = 16
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


class Captions:
    """Token ids of captions as Z-Image asks with them, remembered."""

    def __init__(self, tokenizer: Qwen2Tokenizer) -> None:
        self._tokenizer, self._known = tokenizer, dict[str, list[int]]()

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask (P, longest), filled up on the right."""
        rows = [self._ids(caption) for caption in captions]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return ids, torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])

    def _ids(self, caption: str) -> list[int]:
        if caption not in self._known:
            text = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": caption}], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            self._known[caption] = list(self._tokenizer(text).input_ids)
        return self._known[caption]


class Batched(nn.Module):
    """The text encoder and the transformer on a whole batch at once, as one model.

    diffusers' own forward takes lists of samples and is half as fast. Computes the same; for 64 x 64 pixels only.
    """

    def __init__(self, text_encoder: Qwen3Model, transformer: ZImageTransformer2DModel) -> None:
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer
        model = cast(Any, transformer)
        text = model.create_coordinate_grid((TEXT_TOKENS, 1, 1), (1, 0, 0)).flatten(0, 2)
        picture = model.create_coordinate_grid((1, 4, 4), (TEXT_TOKENS + 1, 0, 0)).flatten(0, 2)
        filled = torch.cat([picture, torch.zeros(_PICTURE_TOKENS, 3, dtype=picture.dtype)])
        self._text_places, self._picture_places = model.rope_embedder(text), model.rope_embedder(filled)

    def context(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What (P, n) token ids mean to the transformer: (P, 32, 96)."""
        model = cast(Any, self.transformer)
        states = self.text_encoder(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states[
            -2
        ]
        embedded = torch.where(mask[..., None], model.cap_embedder(states), model.cap_pad_token)
        count, tokens, _ = embedded.shape
        embedded = torch.cat([embedded, model.cap_pad_token.expand(count, TEXT_TOKENS - tokens, -1)], 1)
        for layer in model.context_refiner:
            embedded = layer(embedded, None, self._text_places.expand(count, -1, -1))
        return embedded

    def forward(self, latents: Tensor, times: Tensor, context: Tensor) -> Tensor:
        """Picture - noise (R, 4, 8, 8) for ``latents`` of that shape at ``times`` (R,): 0 is noise, 1 the picture."""
        model, rows = cast(Any, self.transformer), len(latents)
        time = model.t_embedder(times * model.t_scale)
        cells = latents.view(rows, 4, 4, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).reshape(rows, _PICTURE_TOKENS, -1)
        hidden = model.all_x_embedder[_PATCH](cells)
        hidden = torch.cat([hidden, model.x_pad_token.expand(rows, _PICTURE_TOKENS, -1)], 1)
        places = self._picture_places.expand(rows, -1, -1)
        for layer in model.noise_refiner:
            hidden = layer(hidden, None, places, time)
        hidden = torch.cat([hidden, context], 1)
        places = torch.cat([places, self._text_places.expand(rows, -1, -1)], 1)
        for layer in model.layers:
            hidden = layer(hidden, None, places, time)
        said = model.all_final_layer[_PATCH](hidden[:, :_PICTURE_TOKENS], c=time)
        return cast(Tensor, said.view(rows, 4, 4, 2, 2, 4).permute(0, 5, 1, 3, 2, 4).reshape(rows, 4, 8, 8))
