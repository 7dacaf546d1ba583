"""Every example file is what its comment says, and sd-scripts can read the prompts too."""

from __future__ import annotations

from pathlib import Path

import pytest

from leco_plugin.config.build import Loaded, LoadedPrompts, load

EXAMPLES = Path(__file__).parents[2] / "config_examples"
PAIRS = {
    "erase_style.toml": 1,
    "strengthen.toml": 5,
    "slider.toml": 4,
    "neutrals.toml": 16,
    "sdxl_slider.toml": 4,
    "size.toml": 4,
    "size_job.yaml": 4,
    "erase_color_inline.yaml": 1,
}


def test_every_example_is_listed_here():
    """A new one is built too."""
    found = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".toml", ".yaml", ".json")}
    assert found == set(PAIRS)


@pytest.mark.parametrize(("name", "count"), PAIRS.items())
def test_an_example_builds_without_a_warning(name: str, count: int):
    """Into as many pairs as it promises."""
    loaded = load(EXAMPLES / name)
    pairs = loaded.job.pairs if isinstance(loaded, Loaded) else loaded.pairs
    assert len(pairs) == count
    assert not loaded.warnings


def test_the_job_examples_draw_what_the_built_in_model_draws():
    """It knows pictures of 64 x 64 pixels only."""
    for name in PAIRS:
        loaded = load(EXAMPLES / name)
        if isinstance(loaded, Loaded):
            assert loaded.job.model.name_or_path == "builtin:tiny"
            assert {pair.resolution for pair in loaded.job.pairs} == {(64, 64)}


def test_the_sdxl_example_varies_sizes_and_crops():
    """Both switches reach every pair."""
    loaded = load(EXAMPLES / "sdxl_slider.toml")
    assert isinstance(loaded, LoadedPrompts)
    assert all(pair.dynamic_resolution and pair.dynamic_crops for pair in loaded.pairs)
