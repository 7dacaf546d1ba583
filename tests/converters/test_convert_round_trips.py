"""Generated files keep their pairs, and what they preserve, on every way there and back."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import convert_generated as made
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from leco_converters import Request, convert
from leco_converters.convert import Target

from leco_plugin.config.build import load_job, load_prompts
from leco_plugin.config.schema import PromptPair
from leco_plugin.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _convert(folder: Path, source: str, target: str, to: Target | None = None) -> tuple[Path, set[str]]:
    result = convert(Request(folder / source, folder / target, to=to))
    # of what the host can run, not of what the file says
    return folder / target, {note.kind for note in result.report.notes if "at its first step" not in note.was}


def _read(path: Path) -> tuple[tuple[PromptPair, ...], tuple[str, ...]]:
    """What a prompt file trains, and what it preserves."""
    prompts = load_prompts(path)
    return prompts.pairs, prompts.preserve


@SETTINGS
@given(made.prompt_trees)
def test_a_yaml_prompt_file_gives_its_own_pairs_as_toml(tree: made.Tree):
    """The config reader takes both; the converted file must say the same, without a note."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.yaml").write_text(made.as_yaml(tree, quotes='"'), encoding="utf-8")
        toml, kinds = _convert(folder, "a.yaml", "b.toml")
        assert _read(toml) == _read(folder / "a.yaml")
        assert not kinds


@SETTINGS
@given(made.host_sliders)
def test_an_ai_toolkit_job_gives_the_pairs_of_its_trainer_and_comes_back(slider: made.Tree):
    """YAML to TOML, to YAML, to TOML: the pairs stay those that the trainer makes of the first file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.yaml").write_text(made.as_yaml(made.host_job(slider)), encoding="utf-8")
        toml, _ = _convert(folder, "a.yaml", "b.toml")
        expected = (tuple(made.host_pairs(slider)), made.host_preserve(slider))
        assert _read(toml) == expected
        _, kinds = _convert(folder, "b.toml", "c.yaml", "ai-toolkit")
        assert "lost" not in kinds
        again, _ = _convert(folder, "c.yaml", "d.toml")
        assert _read(again) == expected


def _through_the_defaults(source: Path) -> None:
    """A prompt file to what it becomes by default, and that to what it becomes: equal pairs, and nothing lost."""
    first = convert(Request(source))
    (job,) = first.written
    assert not first.report.lost
    loaded = load_job(job).job
    assert (loaded.pairs, loaded.leco.preserve) == _read(source)
    second = convert(Request(job, force=True, target=job.with_name("again.toml")))
    assert _read(second.written[0]) == _read(source)


@SETTINGS
@given(made.prompt_trees)
def test_a_generated_prompt_file_comes_back_through_the_defaults(tree: made.Tree):
    """Without an option, so that nobody loses anything who does not ask for ai-toolkit's own slider."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "a.toml").write_text(made.as_toml(tree), encoding="utf-8")
        _through_the_defaults(Path(name) / "a.toml")


@pytest.mark.parametrize(
    "case", sorted(path.parent for path in GOLDEN.rglob("prompts.toml")), ids=lambda path: path.name
)
def test_a_golden_prompt_file_comes_back_through_the_defaults(case: Path, tmp_path: Path):
    """With the files of neutrals that it names; one that sd-scripts refuses is refused."""
    shutil.copytree(case, tmp_path / "case")
    source = tmp_path / "case" / "prompts.toml"
    if "error" in json.loads((case / "expected.json").read_text()):
        with pytest.raises(ConfigError):
            convert(Request(source))
        return
    _through_the_defaults(source)


def test_the_job_of_a_prompt_file_says_what_a_host_would_take_otherwise(tmp_path: Path):
    """ai-toolkit's defaults are others: it runs with our learning rate and rank only where they stand in the job."""
    (tmp_path / "a.toml").write_text('target = "a"\n')
    convert(Request(tmp_path / "a.toml"))
    tree = yaml.safe_load((tmp_path / "a.yaml").read_text())
    (process,) = tree["config"]["process"]
    assert (tree["job"], process["type"], process["training_folder"]) == ("extension", "leco", "output")
    assert (process["train"]["lr"], process["network"]["linear"]) == (1e-4, 4)
    assert load_job(tmp_path / "a.yaml").job.train.steps == process["train"]["steps"]


@SETTINGS
@given(made.prompt_trees)
def test_a_toml_comes_back_from_our_own_job_with_all_its_pairs(tree: made.Tree):
    """TOML to a job of ours, to TOML: everything that a prompt file can say has a place there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.toml").write_text(made.as_toml(tree), encoding="utf-8")
        job, _ = _convert(folder, "a.toml", "b.yaml", "leco-job")
        expected = _read(folder / "a.toml")
        loaded = load_job(job).job
        assert (loaded.pairs, loaded.leco.preserve) == expected
        again, _ = _convert(folder, "b.yaml", "c.toml")
        assert _read(again) == expected


@SETTINGS
@given(made.prompt_trees)
def test_a_toml_comes_back_from_ai_toolkit_with_its_pairs_or_the_report_says_what_changed(tree: made.Tree):
    """Where the slider cannot say something, that is never silent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.toml").write_text(made.as_toml(tree), encoding="utf-8")
        try:
            _, kinds = _convert(folder, "a.toml", "b.yaml", "ai-toolkit")
        except ConfigError:
            # nothing but prompts without a concept
            assert all(not (pair.positive + pair.unconditional).strip() for pair in _read(folder / "a.toml")[0])
            return
        again, _ = _convert(folder, "b.yaml", "c.toml")
        (pairs, preserve), (old_pairs, old_preserve) = _read(again), _read(folder / "a.toml")
        assert kinds & {"lost", "changed"} or pairs == old_pairs
        assert "lost" in kinds or preserve == old_preserve
