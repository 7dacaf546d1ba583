"""`leco new`: a job and a prompt file by five questions, or by flags."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml

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
    """A device, a sampler and the family, in the host's words, and what the pages of its web UI look for."""
    assert cli.main(["new", *SLIDER, "--model", XL, "--memory", "24", "--host", "ai-toolkit", "--name", "s"]) == 0
    job = load_job(Path("output/s/s.yaml")).job
    process = yaml.safe_load(Path("output/s/s.yaml").read_text("utf-8"))["config"]["process"][0]
    assert (process["datasets"], process["sample"]) == ([], {"samples": []})
    assert process["logging"] == {"log_every": 1, "use_ui_logger": True}
    assert (job.device, job.model.is_xl, job.train.noise_scheduler) == ("cuda:0", True, "ddim")
    assert "leco host submit ai-toolkit output/s/s.yaml" in capsys.readouterr().out
    # the host runs in its own folder
    assert job.output_folder == Path("output/s").absolute()


@pytest.mark.parametrize(
    ("model", "memory", "arch", "held"),
    [
        ("Tongyi-MAI/Z-Image", "24", "zimage", set()),
        ("Tongyi-MAI/Z-Image", "12GB", "zimage", {"quantize", "quantize_te", "low_vram"}),
        ("Tongyi-MAI/Z-Image", "8", "zimage", {"quantize", "quantize_te", "low_vram", "layer_offloading"}),
        ("black-forest-labs/FLUX.1-dev", "24", "flux", {"quantize", "quantize_te", "low_vram"}),
        ("black-forest-labs/FLUX.2-klein-base-9B", "24", "flux2_klein_9b", {"quantize", "quantize_te", "low_vram"}),
        ("black-forest-labs/FLUX.2-klein-base-4B", "24", "flux2_klein_4b", set()),
    ],
)
def test_a_flow_model_is_called_what_ai_toolkit_calls_it(model: str, memory: str, arch: str, held: set[str]):
    """With the host's own sampler, and its own words for less memory."""
    assert cli.main(["new", *SLIDER, "--model", model, "--memory", memory, "--host", "ai-toolkit", "--name", "s"]) == 0
    process = yaml.safe_load(Path("output/s/s.yaml").read_text("utf-8"))["config"]["process"][0]
    assert (process["model"].pop("arch"), process["train"]["noise_scheduler"]) == (arch, "flowmatch")
    assert process["model"].pop("name_or_path") == model
    assert {name for name, on in process["model"].items() if on} == held


def test_a_stable_diffusion_2_is_told_from_its_base_model():
    """Only one of the two predicts v, which ai-toolkit has to be told."""
    for model, predicts_v in (("stabilityai/stable-diffusion-2-1", True), ("sd2-community/sd-2-1-base", None)):
        words = ["new", *SLIDER, "--model", model, "--memory", "8", "--host", "ai-toolkit", "--name", model[:2]]
        assert cli.main(words) == 0
        job = load_job(Path(f"output/{model[:2]}/{model[:2]}.yaml")).job
        assert (job.model.is_v2, job.model.is_v_pred) == (True, predicts_v)


def test_a_config_for_onetrainer_says_how_the_weights_are_held(capsys: pytest.CaptureFixture[str]):
    """In that host's words; the command has the rest. Another file of that name is left as it is."""
    words = ["new", *SLIDER, "--model", "Tongyi-MAI/Z-Image", "--memory", "8", "--host", "onetrainer", "--name", "s"]
    assert cli.main(words) == 0
    path = Path("output/s/s.toml")
    assert sorted(each.name for each in path.parent.iterdir()) == ["s.json", "s.toml"]
    assert recognise(path).kind is Kind.PROMPTS
    assert len(load_prompts(path).pairs) == 4
    config = json.loads(path.with_suffix(".json").read_text("utf-8"))
    held = {"weight_dtype": "FLOAT_8", "gradient_checkpointing": True, "offload_fraction": 0.6}
    assert config["transformer"].items() >= held.items()
    assert (config["model_type"], config["lora_rank"], config["learning_rate"]) == ("Z_IMAGE", 16, 2e-4)
    assert Path(config["output_model_destination"]) == Path("output/s/s.safetensors").absolute()
    assert f"leco host run onetrainer output/s/s.json {path} --steps 1000" in capsys.readouterr().out
    path.write_text("[[prompts]]\ntarget = 'mine'\n", "utf-8")
    assert cli.main(words) == 2
    assert "mine" in path.read_text("utf-8")


def test_much_memory_is_used_as_onetrainer_calls_it():
    """Nothing is offloaded or in eight bits, and a CPU computes in 32."""
    for memory, held, device in (("24", "FLOAT_16", None), ("0", "FLOAT_32", "cpu")):
        words = ["new", *SLIDER, "--model", XL, "--memory", memory, "--host", "onetrainer", "--name", f"m{memory}"]
        assert cli.main(words) == 0
        config = json.loads(Path(f"output/m{memory}/m{memory}.json").read_text("utf-8"))
        assert config["unet"] == {"weight_dtype": held, "gradient_checkpointing": False}
        assert config["text_encoder_2"] == {"train": False, "weight_dtype": held}
        assert (config["model_type"], config.get("train_device")) == ("STABLE_DIFFUSION_XL_10_BASE", device)


@pytest.mark.parametrize(("host", "files"), [("ai-toolkit", ["s.yaml"]), ("onetrainer", ["s.json", "s.toml"])])
def test_what_is_written_for_another_host_can_be_checked_for_it(
    host: str, files: list[str], capsys: pytest.CaptureFixture[str]
):
    """By the command that is named next; what lies near an erased concept is kept there, too."""
    words = ["new", "--erase", "red", "--model", XL, "--memory", "24", "--host", host, "--name", "s"]
    assert cli.main(words) == 0
    command = f"leco check --host {host} {' '.join(f'output/s/{name}' for name in files)}"
    assert f"  {command}\n" in capsys.readouterr().out
    assert cli.main(command.split()[1:]) == 0
    said = capsys.readouterr().out
    assert "takes 'red' out of 'red'" in said
    assert "at 1024 x 1024 pixels" in said
    assert "keeps as it is what lies near" in said


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """As if typed on a terminal."""
    answers = io.StringIO(text)
    answers.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", answers)


def test_what_no_flag_says_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """In this order; what is empty, no choice, no model and no number is asked again."""
    words = "a shape\na big shape\na small shape\n"
    answer(monkeypatch, f"knob\nslider\n\n./none\nbuiltin:tiny\n{words}much\n10\nbuiltin\n")
    assert cli.main(["new"]) == 0
    pairs = load_job(Path("output/a_big_shape/a_big_shape.yaml")).job.pairs
    assert {pair.target for pair in pairs} == {"a shape"}
    said = capsys.readouterr().err
    for wrong in ("available options", "an answer is needed", "there is no model './none' here", "'much' is no number"):
        assert wrong in said


def test_whoever_ends_the_answers_ends_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Ctrl-D is as Ctrl-C: exit code 130, no traceback, and nothing is written."""
    answer(monkeypatch, "slider\n")
    assert cli.main(["new"]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--erase", "red", "--memory", "8", "--host", "builtin"], "add --model"),
        (
            ["--erase", "red", "--model", "builtin:tiny", "--memory", "-1", "--host", "builtin"],
            "0 for no graphics card",
        ),
        (["--erase", "red", "--model", "me/mine", "--memory", "24", "--host", "ai-toolkit"], "model.arch"),
        (["--erase", "red", "--model", "me/mine", "--memory", "24", "--host", "onetrainer"], "what me/mine is"),
        (["--erase", "red", "--model", "fal/AuraFlow", "--memory", "24", "--host", "onetrainer"], "train AuraFlow"),
        (["--erase", "red", "--model", "fal/AuraFlow", "--memory", "24", "--host", "ai-toolkit"], "auraflow"),
        (["--erase", "red", "--model", "builtin:tiny", "--memory", "0", "--host", "ai-toolkit"], "--host builtin"),
        (["--erase", "red", "--model", "models/x.safetensors", "--memory", "0", "--host", "builtin"], "no model"),
        (["--erase", "red", "--model", "sdxl", "--memory", "0", "--host", "builtin"], "owner/name"),
        (["--erase", "red", "--kind", "slider", "--model", "builtin:tiny", "--memory", "0"], "leave one of them out"),
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
