"""`leco train` with a prompt file, or with words alone: what it writes beside the LoRA repeats it."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from leco_plugin.commands import main as cli
from leco_plugin.commands.written import Words, pinned
from leco_plugin.config.build import load_job, load_prompts
from leco_plugin.config.defaults import filled

SHORT = ("--set", "train.steps=1", "--set", "leco.max_denoising_steps=3", "--set", "leco.pairs_per_step=1")
SLIDER = ("--target", "a shape", "--positive", "a big shape", "--negative", "a small shape")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_written_job_gives_the_same_lora_again(tmp_path: Path):
    """Bit for bit, under another name; with every value that the run had written out."""
    assert cli.main(["train", "--model", "builtin:tiny", *SLIDER, *SHORT]) == 0
    folder = tmp_path / "output" / "a_big_shape"
    job = load_job(folder / "a_big_shape.yaml").job
    assert (job.training_seed, job.train.lr, job.network.linear, job.train.steps) == (42, 1e-3, 4, 1)
    assert {pair.resolution for pair in job.pairs} == {(64, 64)}
    assert {"resolution", "guidance_scale"} <= job.pairs[0].model_fields_set
    assert cli.main(["train", str(folder / "a_big_shape.yaml"), "--set", "name=again"]) == 0
    first = load_file(folder / "a_big_shape.safetensors")
    second = load_file(tmp_path / "output" / "again" / "again.safetensors")
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is nothing to train"),
        (["--erase", "red"], "add --model MODEL"),
        (["--model", "builtin:tiny", "--target", "a"], "a slider needs --target and --positive"),
        (["--model", "builtin:tiny", "--erase", "a", "--positive", "b"], "--erase goes with --target alone"),
        (["--model", "builtin:tiny", "--erase", "red", "--set", "train.stebs=1"], "did you mean"),
        (["p.toml", "--erase", "red", "--model", "builtin:tiny"], "both say what to train"),
        (["p.toml"], "add --model MODEL"),
        (["--model", "", "--erase", "red"], "add --model MODEL"),
        (["--model", "builtin:tiny", "--erase", "red", "--name", "a/b"], "--name: is used as a file name"),
        (["--model", "builtin:tiny", "--preserve", "red"], "a slider needs --target and --positive"),
        (["p.toml", "p.toml", "--model", "builtin:tiny"], "a job has its own"),
        (["--model", "builtin:tiny", "--erase", "red", "--set", "leco.prompts_file=p.toml"], "keep one of the two"),
    ],
)
def test_what_does_not_go_together_is_refused_and_nothing_is_written(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Exit code 2, and no folder."""
    (tmp_path / "p.toml").write_text('target = "red"\n', "utf-8")
    assert cli.main(["train", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


def test_a_run_that_never_began_leaves_no_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A typo in the model does not stand in the way of the same words with the right one."""
    for model in (str(tmp_path / "none"), "builtin:tini"):
        assert cli.main(["train", "--model", model, "--erase", "red", *SHORT]) == 2
        assert "is there already" not in capsys.readouterr().err
        assert not [path for path in tmp_path.rglob("*") if path.suffix in (".yaml", ".toml")]


def test_a_job_that_was_there_before_a_run_that_never_began_stays(tmp_path: Path):
    """Only what the command has written itself is taken back."""
    words = ["--model", str(tmp_path / "none"), "--erase", "red", *SHORT]
    (tmp_path / "none").mkdir()
    assert cli.main(["new", *words[:4], "--memory", "0", "--host", "builtin", "--preserve", "blue"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("erase_red.*")}
    assert len(before) == 2
    assert cli.main(["train", *words[:4]]) == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("erase_red.*")} == before


def test_files_that_say_something_else_are_left_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A job that somebody has changed is not written over."""
    folder = tmp_path / "output" / "erase_red"
    folder.mkdir(parents=True)
    (folder / "erase_red.toml").write_text("mine", "utf-8")
    assert cli.main(["train", "--model", "builtin:tiny", "--erase", "red", *SHORT]) == 2
    assert "is there already, and says something else" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["erase_red.toml"]
    assert (folder / "erase_red.toml").read_text("utf-8") == "mine"


@pytest.mark.parametrize("head", ["", "[slider]\n"])
def test_what_a_prompt_file_leaves_open_is_written_into_it(head: str, tmp_path: Path):
    """At its top, below [slider] where that stands around all; comments stay."""
    entry = "[[slider.targets]]" if head else "[[targets]]"
    text = f'{head}# mine\n{entry}\ntarget_class = "a"\npositive = "b"\n'
    path = tmp_path / "p.toml"
    path.write_text(text, "utf-8")
    open_pairs = [filled(pair, {"resolution": (1024, 1024)}) for pair in load_prompts(path).pairs]
    path.write_text(pinned(text, open_pairs), "utf-8")
    assert "# mine" in path.read_text("utf-8")
    assert {pair.resolution for pair in load_prompts(path).pairs} == {(1024, 1024)}


def test_a_slider_is_measured_from_its_own_target(tmp_path: Path):
    """The neutral is the target; an erase starts from the empty prompt."""
    for words, neutral in ((Words("a", "b", "c"), "a"), (Words("a", "a", action="erase"), "")):
        (tmp_path / "p.toml").write_text(words.toml(), "utf-8")
        assert {pair.neutral for pair in load_prompts(tmp_path / "p.toml").pairs} == {neutral}
