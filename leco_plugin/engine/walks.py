"""The walks that a job asks for."""

from __future__ import annotations

from torch import Generator

from leco_plugin.config.schema import LecoConfig
from leco_plugin.core.walk import FreshWalks, PoolWalks, Walk, Walks
from leco_plugin.engine.step import LecoStep


def make_walks(leco: LecoConfig, step: LecoStep, pairs: int, generator: Generator) -> Walks:
    """Walks over ``pairs`` pairs as ``leco.walk`` says; everything that they draw comes from ``generator``."""

    def begin(pair: int) -> Walk:
        return step.begin(pair, generator)

    steps, per_step = leco.max_denoising_steps, leco.pairs_per_step
    if leco.walk == "fresh":
        return FreshWalks(begin, step.guide, pairs=pairs, steps=steps, per_step=per_step, generator=generator)
    size = max(leco.pool_size, per_step)
    return PoolWalks(begin, step.guide, pairs=pairs, steps=steps, size=size, per_step=per_step, generator=generator)
