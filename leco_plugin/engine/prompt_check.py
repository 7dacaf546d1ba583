"""What a model makes of the prompts before anything is trained: measured on a few noise samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from leco_plugin.config.schema import PromptPair
from leco_plugin.contracts import Denoiser
from leco_plugin.engine.concepts import distinct_prompts
from leco_plugin.engine.figures import PairFigures
from leco_plugin.engine.measure import Bench, Course, NoNetwork, asks
from leco_plugin.errors import Problem

SAME, FAINT = 1e-9, 1e-4
"""Contrast (see ``PairFigures``) at which two prompts are the same to the model, and at which it hardly tells them
apart. On the built-in model every prompt of its vocabulary has 5e-4 or more against another that means something else;
an article, a blank or a letter more has 5e-6 or less."""
MUCH_PULL = 0.25
"""Share of the edit that is due to a neutral of another meaning than the target, from which on that is worth saying."""
_MOST_PAIRS = 32
_WORD = re.compile(r"[^\W\d_]+")
_LETTERS_A_PIECE = 2.5


@runtime_checkable
class ReadsWords(Protocol):
    """A model that can tell how it reads words."""

    def pieces(self, words: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The tokens that each word becomes."""


@dataclass(frozen=True)
class PromptCheck:
    """What was found."""

    pairs: tuple[PairFigures, ...]
    """Figures of the pairs that ask for something; the first of very many."""
    problems: tuple[Problem, ...]


def states_of(pairs: Sequence[PromptPair], course: Course) -> int:
    """How many states `check_prompts` asks about."""
    return sum(map(asks, pairs[:_MOST_PAIRS])) * course.states


def check_prompts(
    denoiser: Denoiser,
    pairs: Sequence[PromptPair],
    preserve: Sequence[str],
    course: Course,
    tick: Callable[[int], object] = lambda states: None,
) -> PromptCheck:
    """Have the base model predict what ``pairs`` ask for, and say what will not train as it is meant.

    ``tick`` is called with 1 after every state.
    """
    few = pairs[:_MOST_PAIRS]
    bench = Bench(denoiser, NoNetwork(), few, preserve, course, tick)
    measured = bench.measure((), drift=False)
    prompts = list(dict.fromkeys((*distinct_prompts(few), *preserve)))
    found = (*_cut(denoiser, prompts), *_unknown(denoiser, prompts), *_weak(measured.pairs), *_pulled(measured.pairs))
    # the pairs of a slider share their prompts
    return PromptCheck(measured.pairs, tuple(dict.fromkeys(found)))


def pull(figures: PairFigures) -> float:
    """Share of what is asked that is no concept, but a neutral of another meaning than the target."""
    return figures.pull / figures.edit if figures.edit > 0 else 0.0


def _cut(denoiser: Denoiser, prompts: Sequence[str]) -> Iterator[Problem]:
    for prompt in denoiser.truncated(prompts):
        message = f"the model reads only the beginning of {prompt!r}; not {denoiser.cut(prompt)!r}"
        yield Problem(None, message, "shorten it, or set model.max_token_length to 150")


def _unknown(denoiser: Denoiser, prompts: Sequence[str]) -> Iterator[Problem]:
    if not isinstance(denoiser, ReadsWords):
        return
    words = list(dict.fromkeys(word for prompt in prompts for word in _WORD.findall(prompt)))
    for word, pieces in denoiser.pieces(words).items():
        if len(pieces) >= 3 and len(word) < _LETTERS_A_PIECE * len(pieces):
            message = f"the model does not know the word {word!r}: it reads {len(pieces)} pieces"
            yield Problem(None, message, "if it draws nothing of the kind, use words that it knows")


def _weak(pairs: Sequence[PairFigures]) -> Iterator[Problem]:
    for one in pairs:
        pair = one.pair
        two = f"positive {pair.positive!r} and unconditional {pair.unconditional!r}"
        if pair.guidance_scale == 0 or one.contrast >= FAINT:
            continue
        if one.contrast < SAME:
            yield Problem(None, f"{two} are the same to the model: nothing will be learned", "change one of them")
        else:
            message = f"the model hardly sees a difference between {two} ({one.contrast:.1e} of its prediction)"
            yield Problem(None, message, "use words whose pictures differ; draw both to see")


def _pulled(pairs: Sequence[PairFigures]) -> Iterator[Problem]:
    for one in pairs:
        pair = one.pair
        if pair.guidance_scale != 0 and pair.neutral != pair.target and pull(one) > MUCH_PULL:
            message = (
                f"the neutral {pair.neutral!r} pulls the target {pair.target!r} away: that is {pull(one):.0%} of what "
                "the pair asks for, not the concept"
            )
            yield Problem(None, message, f"write neutral = {pair.target!r}, unless it is meant")
