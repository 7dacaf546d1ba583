"""Every example converts, and those that stand there in YAML and TOML say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from leco_converters import Request, convert

from leco_plugin.config.build import Loaded, load, load_job, load_prompts

EXAMPLES = Path(__file__).parents[2] / "config_examples"
TWINS = ["erase_style", "strengthen", "slider", "neutrals", "sdxl_slider"]
ALL = sorted(path for path in EXAMPLES.rglob("*") if path.suffix in (".yaml", ".toml", ".json"))


@pytest.mark.parametrize("name", TWINS)
def test_the_yaml_example_is_the_twin_of_the_toml_example(name: str, tmp_path: Path):
    """Read as it is, and converted."""
    expected = load_prompts(EXAMPLES / f"{name}.toml").pairs
    source = EXAMPLES / "yaml" / f"{name}.yaml"
    assert load_prompts(source).pairs == expected
    convert(Request(source, tmp_path / "result.toml", strict=True))
    assert load_prompts(tmp_path / "result.toml").pairs == expected


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_every_example_converts_and_comes_back(path: Path, tmp_path: Path):
    """To a job of ours and from it to a prompt file, with all pairs."""
    if path.stem == "ai_toolkit_slider":
        convert(Request(path, tmp_path / "job.yaml", to="leco-job"))
        assert len(load_job(tmp_path / "job.yaml").job.pairs) == 8 * 4
        return
    loaded = load(path)
    if isinstance(loaded, Loaded):
        convert(Request(path, tmp_path / "result.toml"))
        assert load_prompts(tmp_path / "result.toml").pairs == loaded.job.pairs
        return
    convert(Request(path, tmp_path / "job.yaml", to="leco-job"))
    assert load_job(tmp_path / "job.yaml").job.pairs == loaded.pairs
    convert(Request(tmp_path / "job.yaml", tmp_path / "result.toml"))
    assert load_prompts(tmp_path / "result.toml").pairs == loaded.pairs


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_every_prompt_example_becomes_a_slider_job_or_names_what_it_lacks(path: Path, tmp_path: Path):
    """Only the plain slider is one of ai-toolkit's without a change."""
    if path.suffix != ".toml":
        return
    result = convert(Request(path, tmp_path / "job.yaml", to="ai-toolkit"))
    kinds = {note.kind for note in result.report.notes if "at its first step" not in note.was}
    assert bool(kinds & {"lost", "changed"}) == (path.stem != "slider")
