"""Prompt pairs as numbers of encoded prompts: every distinct prompt is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leco_plugin.config.schema import PromptPair
from leco_plugin.contracts import Denoiser, TextTable

MEASURE_EVERY = 8
"""At every eighth position of a walk the base model is asked for the target, too, so that the effect is known, and with
and without the LoRA for an untouched prompt, so that the drift is. Those that are not among the rows anyway cost at
most 3/8 row a step."""


@dataclass(frozen=True)
class Concept:
    """A pair, and where its four prompts are in the text table."""

    pair: PromptPair
    target: int
    positive: int
    unconditional: int
    neutral: int


@dataclass(frozen=True)
class Untouched:
    """Prompts that shall stay as they are, by their numbers in the text table."""

    preserve: tuple[int, ...] = ()
    """Those that a loss keeps, at both signs of the multiplier."""
    watched: tuple[int, ...] = ()
    """Those whose drift is measured where none is preserved."""

    @property
    def round(self) -> int:
        """Turns until every one of them was asked at every sign."""
        return 2 * len(self.preserve) or len(self.watched)


NOTHING_UNTOUCHED = Untouched()


@dataclass(frozen=True)
class Concepts:
    """All pairs of a run over one table of encoded prompts."""

    table: TextTable
    items: tuple[Concept, ...]
    untouched: Untouched


def distinct_prompts(pairs: Sequence[PromptPair]) -> list[str]:
    """Every prompt of ``pairs`` once, in order of first use."""
    return list(dict.fromkeys(p for pair in pairs for p in _prompts(pair)))


def watched_prompts(pairs: Sequence[PromptPair]) -> list[str]:
    """What of ``pairs`` the LoRA shall not change: what is kept, and what stands for "nothing of the concept"."""
    edited = {prompt for pair in pairs if not pair.keeps for prompt in (pair.target, pair.positive)}
    kept = [pair.target for pair in pairs if pair.keeps]
    around = [prompt for pair in pairs for prompt in (pair.unconditional, pair.neutral)]
    return [prompt for prompt in dict.fromkeys((*kept, *around, "")) if prompt not in edited]


def encode_concepts(pairs: Sequence[PromptPair], denoiser: Denoiser, preserve: Sequence[str] = ()) -> Concepts:
    """Encode the prompts of ``pairs`` and ``preserve`` with the text encoders of ``denoiser``."""
    watched = watched_prompts(pairs)
    prompts = list(dict.fromkeys((*distinct_prompts(pairs), *preserve, *watched)))
    number = {prompt: index for index, prompt in enumerate(prompts)}
    items = tuple(Concept(pair, *(number[prompt] for prompt in _prompts(pair))) for pair in pairs)
    untouched = Untouched(tuple(number[p] for p in preserve), tuple(number[p] for p in watched))
    return Concepts(denoiser.encode(prompts), items, untouched)


def _prompts(pair: PromptPair) -> tuple[str, str, str, str]:
    return pair.target, pair.positive, pair.unconditional, pair.neutral
