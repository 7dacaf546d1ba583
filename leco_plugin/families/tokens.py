"""Prompts as the token numbers of a text encoder: chunks of 75, and words that stand for learned vectors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ENDS, _BEGINS = "</w>", ("\u0120", "\u2581")
"""How tokens of whole words end in CLIP's tokenizer, and begin in those of language models: with their space."""
_LOOKED_AT = 8
"""Tokens for each word that is wanted: some are parts of words, or no words."""


@dataclass(frozen=True)
class Tokens:
    """One prompt in tokens."""

    ids: list[int]
    """What the encoder reads, without start and end; -1 is the first learned vector, -2 the second, and so on."""
    cut: str
    """The part of the prompt, as the tokenizer writes it, that does not fit; empty where all does."""


class PromptReader:
    """Cuts prompts into chunks of 75 tokens with a start and an end token each; 75 where the encoder reads 77.

    ``vectors`` tells how many learned vectors a word stands for; they are numbered in the order of the mapping.
    """

    def __init__(self, tokenizer: Any, vectors: Mapping[str, int]) -> None:
        self._tokenizer = tokenizer
        self.room = int(tokenizer.model_max_length) - 2
        self._learned: dict[str, list[int]] = {}
        before = 0
        for word, count in vectors.items():
            self._learned[word.lower()] = [-1 - number for number in range(before, before + count)]
            before += count
        self._pattern = word_pattern(vectors) if vectors else None

    def read(self, prompt: str, most_chunks: int) -> Tokens:
        """The tokens of a prompt that fit into ``most_chunks`` chunks."""
        ids, limit = self._ids(prompt), most_chunks * self.room
        return Tokens(ids[:limit], self._text(ids[limit:]))

    def needed(self, tokens: Tokens) -> int:
        """Chunks that the tokens fill, at least one."""
        return max(1, -(-len(tokens.ids) // self.room))

    def chunks(self, tokens: Tokens, count: int) -> list[list[int]]:
        """``count`` rows for the encoder, each with start and end; where the tokens end, padding begins."""
        tokenizer, room = self._tokenizer, self.room
        rows = []
        for start in range(0, count * room, room):
            row = [tokenizer.bos_token_id, *tokens.ids[start : start + room], tokenizer.eos_token_id]
            rows.append(row + [tokenizer.pad_token_id] * (room + 2 - len(row)))
        return rows

    def _ids(self, prompt: str) -> list[int]:
        if self._pattern is None:
            return self._plain(prompt)
        ids: list[int] = []
        # split keeps the words that it splits at: every second part is one
        for index, part in enumerate(self._pattern.split(prompt)):
            ids += self._learned[part.lower()] if index % 2 else self._plain(part)
        return ids

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, truncation=False).input_ids)

    def _text(self, ids: Sequence[int]) -> str:
        words = {numbers[0]: word for word, numbers in self._learned.items()}
        parts: list[str] = []
        plain: list[int] = []
        for number in ids:
            if number >= 0:
                plain.append(number)
                continue
            parts += [self._tokenizer.decode(plain), words.get(number, "")]
            plain = []
        parts.append(self._tokenizer.decode(plain))
        return " ".join(part.strip() for part in parts if part.strip())


def similar_words(tokenizer: Any, embedding: Tensor, word: str, count: int) -> dict[str, float]:
    """Whole words of one token whose rows in ``embedding`` (tokens, width) point where that of ``word`` does.

    With their cosines, the nearest first; without ``word`` itself and what differs from it by an ending.
    """
    space = " " if tokenizer.tokenize(f"a {word}")[-1].startswith(_BEGINS) else ""
    own = embedding[tokenizer(space + word, add_special_tokens=False).input_ids].mean(0, keepdim=True)
    # a word that training hardly met has hardly a direction
    known = embedding.norm(dim=1) > own.norm() / 2
    alike = torch.cosine_similarity(embedding, own).where(known, -torch.ones(()))
    best = alike.topk(min(_LOOKED_AT * count, len(alike)))
    found: dict[str, float] = {}
    for likeness, text in zip(
        best.values.tolist(), tokenizer.convert_ids_to_tokens(best.indices.tolist()), strict=True
    ):
        other = str(text).removesuffix(_ENDS).lstrip("".join(_BEGINS)).lower()
        whole = other.isalpha() and len(other) > 2 and tokenizer.tokenize(space + other) == [text]
        if whole and len(found) < count and not (other.startswith(word) or word.startswith(other)):
            found[other] = likeness
    return found


def word_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Finds any of ``words`` as a whole word, in capitals or not; the longest where several fit."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
