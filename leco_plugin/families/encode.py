"""Prompts through a model's text encoders, each loaded for this and freed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from leco_plugin.errors import ModelError
from leco_plugin.families.embeddings import add_vectors, read_embeddings
from leco_plugin.families.single_file import Source
from leco_plugin.families.source import CLASSES
from leco_plugin.families.tokens import PromptReader

TOKENS_PER_CHUNK = 75


@dataclass(frozen=True)
class PromptOptions:
    """How prompts are read."""

    clip_skip: int | None = None
    """The layer that is read, counted from the last, which is 1; None is the family's own."""
    max_chunks: int = 1
    """Chunks of 75 tokens that a prompt may fill."""
    embeddings_folder: Path | None = None


@dataclass(frozen=True)
class Layer:
    """The layer of a text encoder that a family reads."""

    number: int
    """Counted from the last, which is 1."""
    normed: bool
    """Whether the encoder's last norm follows."""


@dataclass(frozen=True)
class Encoded:
    """What P prompts became, in float32."""

    hidden: list[Tensor]
    """(P, tokens, width) of each encoder."""
    pooled: Tensor | None
    """(P, width): the projection of the last encoder's first chunk, where it has one."""
    cut: dict[str, str]
    """The part that was cut off, by prompt."""


def encode_prompts(
    source: Source, prompts: Sequence[str], options: PromptOptions, layer: Layer, device: torch.device
) -> Encoded:
    """Hidden states of ``prompts`` from every text encoder of ``source``.

    All prompts get as many chunks as the longest needs, so that they fit into one batch; those of a prompt are
    laid end to end.
    """
    count = len(CLASSES[source.family])
    vectors = read_embeddings(options.embeddings_folder, prompts, count)
    readers = [
        PromptReader(source.tokenizer(number), {word: len(table) for word, table in vectors[number].items()})
        for number in range(count)
    ]
    read = [[reader.read(prompt, options.max_chunks) for prompt in prompts] for reader in readers]
    chunks = max(reader.needed(tokens) for reader, row in zip(readers, read, strict=True) for tokens in row)
    hidden, pooled = [], None
    for number, (reader, row) in enumerate(zip(readers, read, strict=True)):
        encoder = _Encoder(source.text_encoder(number), vectors[number], layer, device)
        states, pooled = encoder.run([reader.chunks(tokens, chunks) for tokens in row])
        hidden.append(states)
        # before the next one is loaded: the device has to hold only one
        del encoder
    cut = {prompt: tokens.cut for row in read for prompt, tokens in zip(prompts, row, strict=True) if tokens.cut}
    return Encoded(hidden, pooled, cut)


class _Encoder:
    """One text encoder in float32, on the device."""

    def __init__(self, module: nn.Module, vectors: Mapping[str, Tensor], layer: Layer, device: torch.device) -> None:
        self._first_learned = add_vectors(module, vectors)
        # float32 whatever the file holds: it is used once, and its rounding would be in every step
        self._module = module.to(device, torch.float32).eval()
        self._layer, self._device = layer, device

    @torch.no_grad()
    def run(self, prompts: Sequence[list[list[int]]]) -> tuple[Tensor, Tensor | None]:
        """(P, tokens, width) and the pooled (P, width) of P prompts in chunks."""
        states, pooled = [], []
        for chunks in prompts:
            # one chunk a call: an embedding must not depend on its neighbours in the batch
            answers = [self._answer(chunk) for chunk in chunks]
            states.append(torch.cat([self._hidden(answer) for answer in answers], dim=1))
            pooled.append(getattr(answers[0], "text_embeds", None))
        known = [row for row in pooled if row is not None]
        return torch.cat(states), torch.cat(known) if known else None

    def _answer(self, chunk: Sequence[int]) -> Any:
        ids = [number if number >= 0 else self._first_learned - 1 - number for number in chunk]
        return self._module(torch.tensor([ids], device=self._device), output_hidden_states=True)

    def _hidden(self, answer: Any) -> Tensor:
        hidden: tuple[Tensor, ...] = answer.hidden_states
        if self._layer.number >= len(hidden):
            raise ModelError(
                f"the text encoder has {len(hidden) - 1} layers, too few for clip_skip {self._layer.number}",
                fix="use a smaller clip_skip",
            )
        found = hidden[-self._layer.number]
        if not self._layer.normed:
            return found
        # newer transformers have no wrapper around a text model without projection
        inner = cast(Any, getattr(self._module, "text_model", self._module))
        return cast(Tensor, inner.final_layer_norm(found))
