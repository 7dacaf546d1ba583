"""How many walks are in flight, and in a step."""

from __future__ import annotations

import pytest
from models import pair
from pydantic import ValidationError

from leco_plugin.config.schema import LecoConfig
from leco_plugin.engine.pool_size import walks_in_flight, walks_per_step


@pytest.mark.parametrize(
    ("options", "batches", "in_step", "in_flight"),
    [
        ({}, [1], 1, 4),
        ({}, [4], 4, 16),
        ({}, [3, 1], 2, 8),
        ({"pairs_per_step": 3}, [2], 6, 24),
        ({"pairs_per_step": 3}, [4], 12, 32),
        ({"pairs_per_step": 10}, [4], 40, 40),
        ({"pool_size": 6}, [4], 4, 6),
        ({"pool_size": 2}, [4], 4, 4),
    ],
)
def test_four_for_each_sample_of_a_step_up_to_a_limit(options, batches, in_step, in_flight):
    """Or as many as the job says; never fewer than one step takes."""
    leco, pairs = LecoConfig(**options), [pair(batch_size=batch) for batch in batches]
    assert (walks_per_step(leco, pairs), walks_in_flight(leco, pairs)) == (in_step, in_flight)


@pytest.mark.parametrize("option", ["pool_size", "pool_stride"])
def test_fresh_walks_have_no_pool(option):
    """An option that would be ignored is refused; what a run wrote down of itself, its defaults too, is read back."""
    with pytest.raises(ValidationError, match=f"{option} means nothing to walk fresh"):
        LecoConfig(walk="fresh", **{option: 3})
    fresh = LecoConfig(walk="fresh")
    assert LecoConfig.model_validate_json(fresh.model_dump_json()) == fresh
