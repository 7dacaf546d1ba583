"""How many walks a pool has; without torch, for those who only ask what a run will need."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from leco_plugin.config.schema import LecoConfig, PromptPair

PER_SAMPLE, MOST = 4, 32
"""Fewer walks are too much alike; in more, each waits so long that its state is that of an older LoRA."""


def mean_batch(pairs: Sequence[PromptPair]) -> float:
    """Samples of a pair on average."""
    return fmean(pair.batch_size for pair in pairs)


def walks_per_step(leco: LecoConfig, pairs: Sequence[PromptPair]) -> int:
    """Walks of one sample that a step of the pool trains at."""
    return max(1, round(leco.pairs_per_step * mean_batch(pairs)))


def walks_in_flight(leco: LecoConfig, pairs: Sequence[PromptPair]) -> int:
    """Walks of one sample in the pool: at least as many as a step trains at."""
    per_step = walks_per_step(leco, pairs)
    return max(per_step, leco.pool_size or min(MOST, PER_SAMPLE * per_step))
