"""Prompt pairs as numbers of encoded prompts: every distinct prompt is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leco_plugin.config.schema import PromptPair
from leco_plugin.contracts import Denoiser, TextTable


@dataclass(frozen=True)
class Concept:
    """A pair, and where its four prompts are in the text table."""

    pair: PromptPair
    target: int
    positive: int
    unconditional: int
    neutral: int


@dataclass(frozen=True)
class Concepts:
    """All pairs of a run over one table of encoded prompts."""

    table: TextTable
    items: tuple[Concept, ...]


def distinct_prompts(pairs: Sequence[PromptPair]) -> list[str]:
    """Every prompt of ``pairs`` once, in order of first use."""
    return list(dict.fromkeys(p for pair in pairs for p in _prompts(pair)))


def encode_concepts(pairs: Sequence[PromptPair], denoiser: Denoiser) -> Concepts:
    """Encode the prompts of ``pairs`` with the text encoders of ``denoiser``."""
    prompts = distinct_prompts(pairs)
    number = {prompt: index for index, prompt in enumerate(prompts)}
    items = tuple(Concept(pair, *(number[prompt] for prompt in _prompts(pair))) for pair in pairs)
    return Concepts(denoiser.encode(prompts), items)


def _prompts(pair: PromptPair) -> tuple[str, str, str, str]:
    return pair.target, pair.positive, pair.unconditional, pair.neutral
