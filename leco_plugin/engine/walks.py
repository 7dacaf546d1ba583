"""The walks that a job asks for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator

from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.core.walk import FreshWalks, PoolWalks, Walk, Walks
from leco_plugin.engine.pool_size import mean_batch, walks_in_flight, walks_per_step
from leco_plugin.engine.step import LecoStep


def make_walks(leco: LecoConfig, step: LecoStep, pairs: Sequence[PromptPair], generator: Generator) -> Walks:
    """Walks over ``pairs`` as ``leco.walk`` says; everything that they draw comes from ``generator``."""
    if leco.walk == "fresh":
        return FreshWalks(
            lambda pair: step.begin(pair, generator),
            step.guide,
            pairs=len(pairs),
            steps=leco.max_denoising_steps,
            per_step=leco.pairs_per_step,
            generator=generator,
        )
    return _pool(leco, step, pairs, generator)


def _pool(leco: LecoConfig, step: LecoStep, pairs: Sequence[PromptPair], generator: Generator) -> PoolWalks:
    """A pair's batch as walks of one sample each: a step then trains at several stops instead of one."""
    mean = mean_batch(pairs)

    def begin(pair: int) -> Walk:
        walk = step.begin(pair, generator, samples=1)
        # a pair with a larger batch has more walks, and counts no more for it
        walk.share = mean / pairs[pair].batch_size
        return walk

    return PoolWalks(
        begin,
        step.guide,
        step.leap,
        pairs=[number for number, pair in enumerate(pairs) for _ in range(pair.batch_size)],
        steps=leco.max_denoising_steps,
        size=walks_in_flight(leco, pairs),
        per_step=walks_per_step(leco, pairs),
        generator=generator,
        stride=leco.pool_stride,
    )
