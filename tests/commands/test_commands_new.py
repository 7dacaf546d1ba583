"""`leco new`: a job and a prompt file by five questions, or by flags."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from leco_plugin.commands import main as cli
from leco_plugin.config.build import load_job, load_prompts
from leco_plugin.config.recognise import Kind, recognise

SLIDER = ("--target", "a shape", "--positive", "a big shape", "--negative", "a small shape")
XL = "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_job_for_this_program_is_checked_and_trained_as_it_says(capsys: pytest.CaptureFixture[str]):
    """With what lies near an erased concept kept; the last lines are the next commands."""
    assert cli.main(["new", "--erase", "red", "--model", "builtin:tiny", "--memory", "0", "--host", "builtin"]) == 0
    *_, check, train = capsys.readouterr().out.splitlines()
    job = "output/erase_red/erase_red.yaml"
    assert [check, train] == [f"  leco check {job}", f"  leco train {job}"]
    assert load_job(Path(job)).job.leco.preserve == ("auto",)
    assert cli.main([*check.split()[1:], "--no-estimate"]) == 0
    assert "keeps as it is what lies near" in capsys.readouterr().out
    short = ("train.steps=1", "leco.max_denoising_steps=3", "leco.pairs_per_step=1")
    assert cli.main([*train.split()[1:], *(part for one in short for part in ("--set", one))]) == 0
    assert Path("output/erase_red/erase_red.safetensors").exists()


@pytest.mark.parametrize(
    ("memory", "checkpointing", "quantize", "offload", "model"),
    [
        ("24", False, None, None, XL),
        ("12", True, None, None, XL),
        ("24", True, None, None, "Tongyi-MAI/Z-Image"),
        ("12", True, "int8", None, "Tongyi-MAI/Z-Image"),
        ("8", True, "int8", "layers", "Tongyi-MAI/Z-Image"),
    ],
)
def test_little_memory_is_spared(
    memory: str, checkpointing: bool, quantize: str | None, offload: str | None, model: str
):
    """By the family, which the model's name tells."""
    assert cli.main(["new", *SLIDER, "--model", model, "--memory", memory, "--host", "builtin", "--name", "s"]) == 0
    job = load_job(Path("output/s/s.yaml")).job
    assert (job.train.dtype, job.train.gradient_checkpointing) == ("bf16", checkpointing)
    assert (job.memory.quantize, job.memory.offload) == (quantize, offload)


def test_a_job_for_ai_toolkit_says_what_that_needs(capsys: pytest.CaptureFixture[str]):
    """A device, a sampler and the family, in the host's words."""
    assert cli.main(["new", *SLIDER, "--model", XL, "--memory", "24", "--host", "ai-toolkit", "--name", "s"]) == 0
    job = load_job(Path("output/s/s.yaml")).job
    assert (job.device, job.model.is_xl, job.train.noise_scheduler) == ("cuda:0", True, "ddim")
    out = capsys.readouterr().out
    assert "leco check --host ai-toolkit output/s/s.yaml" in out
    assert "leco host submit ai-toolkit output/s/s.yaml" in out


def test_a_job_for_ai_toolkit_without_a_card_is_one_for_the_cpu():
    """The host would look for a card that is not there."""
    assert cli.main(["new", *SLIDER, "--model", XL, "--memory", "0", "--host", "ai-toolkit", "--name", "s"]) == 0
    assert load_job(Path("output/s/s.yaml")).job.device == "cpu"


def test_for_onetrainer_there_are_prompts_alone(capsys: pytest.CaptureFixture[str]):
    """Its own config has all else; another file of that name is left as it is."""
    words = ["new", *SLIDER, "--model", XL, "--memory", "24", "--host", "onetrainer", "--name", "s"]
    assert cli.main(words) == 0
    path = Path("output/s/s.toml")
    assert [each.name for each in path.parent.iterdir()] == ["s.toml"]
    assert recognise(path).kind is Kind.PROMPTS
    assert len(load_prompts(path).pairs) == 4
    assert f"leco host ui onetrainer {path} --steps 1000" in capsys.readouterr().out
    path.write_text("[[prompts]]\ntarget = 'mine'\n", "utf-8")
    assert cli.main(words) == 2
    assert "mine" in path.read_text("utf-8")


@pytest.mark.parametrize("host", ["ai-toolkit", "onetrainer"])
def test_what_another_host_cannot_find_is_not_asked_of_it(host: str, capsys: pytest.CaptureFixture[str]):
    """Neighbours of an erased concept are to be named there."""
    words = ["new", "--erase", "red", "--model", XL, "--memory", "24", "--host", host, "--name", "s"]
    assert cli.main([*words, "--preserve", "auto"]) == 2
    assert "name prompts near it" in capsys.readouterr().err
    assert cli.main(words) == 0
    loaded = load_prompts(Path("output/s/s.toml"))
    assert loaded.preserve == ()
    assert {pair.resolution for pair in loaded.pairs} == {(1024, 1024)}
    assert "# preserve" in Path("output/s/s.toml").read_text("utf-8")


def test_what_no_flag_says_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """In this order; an empty answer and one that is no choice are asked again."""
    answers = io.StringIO("knob\nslider\n\nbuiltin:tiny\na shape\na big shape\na small shape\n0\nbuiltin\n")
    answers.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", answers)
    assert cli.main(["new"]) == 0
    pairs = load_job(Path("output/a_big_shape/a_big_shape.yaml")).job.pairs
    assert {pair.target for pair in pairs} == {"a shape"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--erase", "red", "--memory", "8", "--host", "builtin"], "add --model"),
        (
            ["--erase", "red", "--model", "builtin:tiny", "--memory", "-1", "--host", "builtin"],
            "0 for no graphics card",
        ),
        (["--erase", "red", "--model", "black/FLUX.1-dev", "--memory", "24", "--host", "ai-toolkit"], "model.arch"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Where nobody can be asked; exit code 2."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert cli.main(["new", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(Path().iterdir()) == []
