"""What an edit would hurt: words near the concept, found by the frozen model itself, for ``preserve: auto``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from leco_plugin.config.names import AUTO
from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.contracts import Denoiser, Network
from leco_plugin.engine.measure import Bench, Course, NoNetwork, asks
from leco_plugin.errors import ConfigError

SAME = 0.9
"""Share of the concept in a word's own pictures from which on it is the concept by another name, and not kept, unless
there is more beside it: on the flow model, a square has .91 of what a circle adds to a shape, and 1.34 beside it."""
NOTHING = 0.3
"""What a word has to add to pictures, in units of the concept, to be more than a word like "the"."""
_LIKE_THE_NEAREST, _MOST_WORDS = 0.5, 4
_MOST_CONCEPTS, _MOST_PLACES = 4, 6
_SAMPLES, _STATES, _STEPS = 8, 6, 20
_WORD = re.compile(r"[^\W\d_]+")


@runtime_checkable
class KnowsWords(Protocol):
    """A model whose text encoder tells which words are alike."""

    def similar(self, word: str, count: int) -> Mapping[str, float]:
        """The words that the text encoder holds for the most alike, the nearest first, and how alike: 1 is the same."""


@dataclass(frozen=True)
class Neighbour:
    """A word beside the concept's."""

    concept: str
    word: str
    likeness: float
    """How alike the text encoder holds the two, so that what is learned for one is learned for the other: 1 is all."""
    prompts: tuple[str, ...]
    """The targets with this word in place of the concept's."""


def find_neighbours(
    denoiser: Denoiser, pairs: Sequence[PromptPair], course: Course, network: Network | None = None
) -> list[Neighbour]:
    """The words that an edit would hurt, those hurt most first; none where the model does not tell of its words.

    They are the text encoder's nearest to each word that only a pair's positive has: a LoRA that answers the one
    differently does so with the other as far as they are alike. On the built-in model an erase of red moves orange by
    16 degrees, purple by 4 and blue by 1; they are .27, .19 and .05 like it. ``network``: a LoRA that is on the model
    already, and is asked at strength 0.
    """
    if not isinstance(denoiser, KnowsWords):
        return []
    asking = [pair for pair in pairs if asks(pair)]
    used = {word for pair in asking for prompt in _prompts(pair) for word in _words(prompt)}
    places: dict[str, list[PromptPair]] = {}
    for pair in asking:
        for word in sorted(_words(pair.positive) - _words(pair.unconditional)):
            places.setdefault(word, []).append(pair)
    found: list[Neighbour] = []
    for concept, of_concept in list(places.items())[:_MOST_CONCEPTS]:
        alike = {word: like for word, like in denoiser.similar(concept, 4 * _MOST_WORDS).items() if word not in used}
        near = [word for word, like in alike.items() if like >= _LIKE_THE_NEAREST * max(alike.values())]
        others = _others(denoiser, concept, of_concept[0], near[: 2 * _MOST_WORDS], course, network or NoNetwork())
        found += [
            Neighbour(concept, word, alike[word], _places(of_concept, concept, word)) for word in others[:_MOST_WORDS]
        ]
    return sorted(found, key=lambda one: -one.likeness)


def preserved(
    leco: LecoConfig, denoiser: Denoiser, pairs: Sequence[PromptPair], course: Course, network: Network | None = None
) -> LecoConfig:
    """``leco`` with the prompts that ``auto`` stands for in its place; ``network`` as above."""
    if AUTO not in leco.preserve:
        return leco
    if not isinstance(denoiser, KnowsWords):
        raise ConfigError(
            "preserve: auto: this model does not tell which words are alike", fix="name the prompts instead"
        )
    found = [prompt for one in find_neighbours(denoiser, pairs, course, network) for prompt in one.prompts]
    named = (prompt for prompt in leco.preserve if prompt != AUTO)
    return leco.model_copy(update={"preserve": tuple(dict.fromkeys((*named, *found)))})


def nothing_near(asked: LecoConfig, found: LecoConfig) -> Iterator[str]:
    """A sentence for the user where ``auto`` stands for nothing, so that a run would keep nothing by it."""
    if AUTO in asked.preserve and len(found.preserve) < len(asked.preserve):
        yield "preserve: auto found no word near the concept that it could keep; name the prompts that shall stay"


def _others(
    denoiser: Denoiser, concept: str, pair: PromptPair, words: Sequence[str], course: Course, network: Network
) -> list[str]:
    """Those of ``words`` that say something, and not the concept by another name, by what the frozen model draws."""
    prompts = [_with(pair.positive, concept, word) for word in words]
    enough = replace(course, samples=_SAMPLES, most_states=_STATES, steps=max(_STEPS, course.steps))
    bench = Bench(denoiser, network, [pair], prompts, enough)
    shares = bench.shares() if prompts else {}
    found = {word: shares[prompt] for word, prompt in zip(words, prompts, strict=True)}
    return [
        word
        for word, one in found.items()
        if one.along < max(SAME, one.beside) and math.hypot(one.along, one.beside) > NOTHING
    ]


def _places(pairs: Sequence[PromptPair], concept: str, word: str) -> tuple[str, ...]:
    """The targets with ``word`` in place of the concept's."""
    targets = dict.fromkeys(prompt for pair in pairs for prompt in (pair.target, pair.positive))
    return tuple(_with(prompt, concept, word) for prompt in targets if concept in _words(prompt))[:_MOST_PLACES]


def _prompts(pair: PromptPair) -> tuple[str, ...]:
    return pair.target, pair.positive, pair.unconditional, pair.neutral


def _words(prompt: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(prompt) if len(word) > 2}


def _with(prompt: str, concept: str, word: str) -> str:
    """``prompt`` with another word in place of the concept's, and the article that it takes."""
    changed = re.sub(rf"\b{re.escape(concept)}\b", word, prompt, flags=re.IGNORECASE)
    article = "an" if word[0] in "aeiou" else "a"
    return re.sub(rf"\ban? (?={re.escape(word)}\b)", f"{article} ", changed)
