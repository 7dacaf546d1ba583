"""Settings of the run: to a job of ours, to ai-toolkit's, and to the command line of sd-scripts."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from convert_results import Convert, Refused
from leco_converters import Request, convert

from leco_plugin.config.build import load_job

HOST_JOB = """
job: train
config:
  name: age
  training_folder: output/LoRA
  device: cuda:0
  process:
    - type: slider
      network: {type: lierla, rank: 8, alpha: 4}
      train:
        steps: 500
        lr: 2e-4
        optimizer: AdamW
        lr_scheduler: constant
        noise_scheduler: ddpm
        max_denoising_steps: 30
        min_snr_gamma: 5.0
        gradient_accumulation_steps: 2
        gradient_checkpointing: true
        noise_offset: 0.05
        dtype: bf16
      model: {name_or_path: some/model, is_v2: true, is_v_pred: true}
      save: {dtype: float16, save_every: 50, max_step_saves_to_keep: 2}
      slider:
        targets: [{target_class: person, positive: old}]
meta: {name: "[name]"}
"""
LECO_CONFIG = """
prompts_file: prompts.yaml
pretrained_model: {name_or_path: some/model, v2: false, v_pred: false}
network: {type: lierla, rank: 8, alpha: 2.0, training_method: full}
train: {precision: bfloat16, iterations: 300, lr: 1e-4, noise_scheduler: ddim, max_denoising_steps: 20}
save: {name: gogh, path: ./output, per_steps: 100, precision: float16}
logging: {use_wandb: false, verbose: false}
other: {use_xformers: false}
"""


def flags(text: str) -> dict[str, str]:
    """The flags of a command line by name."""
    words = [word for word in shlex.split(text) if word.startswith("--")]
    return {word[2:].partition("=")[0]: word.partition("=")[2] for word in words}


def test_an_ai_toolkit_job_becomes_a_job_with_the_same_settings(to_toml: Convert):
    """It can be run as it is, with the prompt file beside it."""
    result = to_toml(HOST_JOB, job=True)
    job = load_job(result.conversion.written[1]).job
    assert (job.name, job.training_folder, job.device) == ("age", Path("output/LoRA"), "cuda:0")
    assert (job.network.type, job.network.linear, job.network.linear_alpha) == ("lora", 8, 4)
    train = job.train
    assert (train.steps, train.lr, train.optimizer, train.noise_scheduler) == (500, 2e-4, "adamw", "ddpm")
    assert (train.min_snr_gamma, train.gradient_accumulation, train.noise_offset) == (5, 2, 0.05)
    assert (train.dtype, train.gradient_checkpointing) == ("bf16", True)
    assert (job.leco.max_denoising_steps, job.model.name_or_path) == (30, "some/model")
    assert (job.save.dtype, job.save.save_every, job.save.max_step_saves_to_keep) == ("float16", 50, 2)
    assert job.pairs == result.pairs
    assert job.meta == {"name": "age"}


def test_a_leco_config_becomes_a_job_with_the_same_settings(to_toml: Convert, tmp_path: Path):
    """Under the names that they have here."""
    (tmp_path / "prompts.yaml").write_text("- target: van gogh\n")
    job = load_job(to_toml(LECO_CONFIG, job=True).conversion.written[1]).job
    assert (job.name, job.training_folder) == ("gogh", Path("output"))
    assert (job.network.linear, job.network.linear_alpha) == (8, 2)
    assert (job.train.steps, job.train.dtype, job.leco.max_denoising_steps) == (300, "bf16", 20)
    assert (job.save.save_every, job.save.dtype) == (100, "float16")
    assert [pair.target for pair in job.pairs] == ["van gogh"]


def test_a_leco_config_that_is_silent_keeps_the_defaults_of_leco(to_toml: Convert, tmp_path: Path):
    """500 steps, walks of 50, bfloat16, files in float32 every 200 steps."""
    (tmp_path / "prompts.yaml").write_text("- target: van gogh\n")
    text = "prompts_file: prompts.yaml\npretrained_model: {name_or_path: m}\nnetwork: {rank: 4}\n"
    job = load_job(to_toml(text, job=True).conversion.written[1]).job
    assert (job.train.steps, job.train.dtype, job.leco.max_denoising_steps) == (500, "bf16", 50)
    assert (job.save.save_every, job.save.dtype) == (200, "float32")


def test_a_setting_that_our_trainer_refuses_is_left_out_with_its_reason(to_toml: Convert):
    """And the rest of the job runs."""
    result = to_toml(HOST_JOB.replace("noise_scheduler: ddpm", "noise_scheduler: lms"), job=True)
    job = load_job(result.conversion.written[1]).job
    assert job.train.noise_scheduler == "ddim"
    (note,) = result.notes("config.process[0].train.noise_scheduler")
    assert note.kind == "lost"
    assert "lms" in note.was


def test_a_job_without_a_model_is_refused(refused: Refused):
    """A list of prompts has none; --model names it."""
    (problem,) = refused("- target: a\n", job=True)
    assert "--model" in problem.fix


def test_our_own_job_keeps_its_settings(tmp_path: Path):
    """Job to prompt file and job: nothing but the place of the prompts differs."""
    source = tmp_path / "a.yaml"
    source.write_text(
        "job: extension\nconfig:\n  name: n\n  process:\n    - type: leco\n      training_seed: 3\n"
        "      model: {name_or_path: builtin:tiny}\n      train: {steps: 7, lr: 1e-3}\n"
        "      leco: {max_denoising_steps: 9, resolution: 64, targets: [{target_class: a, positive: b}]}\n"
        "meta: {v: 1}\n"
    )
    result = convert(Request(source, tmp_path / "b.toml", job=tmp_path / "c.yaml", strict=True))
    assert not result.report.notes
    assert load_job(tmp_path / "c.yaml").job == load_job(source).job


def test_the_command_line_carries_the_settings(to_toml: Convert):
    """With the names of sd-scripts' own documentation."""
    text = to_toml(HOST_JOB, flags=True).conversion.flags
    assert text.startswith("accelerate launch --mixed_precision bf16 train_leco.py --pretrained_model_name_or_path=")
    found = flags(text)
    wanted = {
        "pretrained_model_name_or_path": "some/model",
        "output_dir": "output/LoRA/age",
        "output_name": "age",
        "network_dim": "8",
        "network_alpha": "4",
        "max_train_steps": "500",
        "learning_rate": "0.0002",
        "optimizer_type": "AdamW",
        "lr_scheduler": "constant",
        "max_denoising_steps": "30",
        "min_snr_gamma": "5.0",
        "gradient_accumulation_steps": "2",
        "noise_offset": "0.05",
        "save_every_n_steps": "50",
        "save_precision": "fp16",
        "mixed_precision": "bf16",
    }
    assert wanted.items() <= found.items()
    assert {"gradient_checkpointing", "v2", "v_parameterization"} <= found.keys()
    assert found["prompts_file"].endswith("result.toml")


def test_sdxl_has_a_trainer_of_its_own(to_toml: Convert):
    """Which knows no --v2."""
    text = to_toml(HOST_JOB.replace("is_v2: true", "is_xl: true"), flags=True).conversion.flags
    assert "sdxl_train_leco.py" in text
    assert "--v2" not in text
    assert "--v_parameterization" not in text


def test_a_setting_without_a_flag_is_lost_or_stands_in_the_job_only(to_toml: Convert):
    """noise_scheduler is fixed in sd-scripts."""
    key = "config.process[0].train.noise_scheduler"
    assert key in to_toml(HOST_JOB, flags=True).lost()
    assert [note.kind for note in to_toml(HOST_JOB, flags=True, job=True).notes(key)] == ["changed"]


def test_a_value_with_blanks_is_one_word_of_the_command(to_toml: Convert):
    """A model in a folder with a blank in its name."""
    text = to_toml(HOST_JOB.replace("some/model", "my models/it's"), flags=True).conversion.flags
    assert flags(text)["pretrained_model_name_or_path"] == "my models/it's"


def test_a_slider_job_has_everything_that_its_trainer_asks_for(to_yaml: Convert):
    """Required keys, the two that its own defaults would spoil, and all as YAML 1.1 reads it."""
    result = to_yaml('[[targets]]\ntarget_class = "no"\npositive = "1e-4"\nmultiplier = 1e-5\n')
    tree = yaml.safe_load(result.text)
    config = tree["config"]
    (process,) = config["process"]
    assert (tree["job"], process["type"], config["training_folder"]) == ("train", "slider", "output")
    assert process["model"]["name_or_path"]
    assert process["train"]["max_denoising_steps"] == 40
    assert isinstance(process["train"]["lr"], float)
    assert process["train"]["train_text_encoder"] is False
    assert process["slider"]["resolutions"] == [[512, 512]]
    assert process["slider"]["targets"] == [
        {"target_class": "no", "positive": "1e-4", "negative": "", "multiplier": 1e-5}
    ]


@pytest.mark.parametrize(("size", "is_xl"), [(512, False), (1024, True)])
def test_the_model_that_a_slider_job_is_given_fits_its_sizes(size: int, is_xl: bool, to_yaml: Convert):
    """The report says that it is a guess."""
    result = to_yaml(f'resolution = {size}\n[[targets]]\ntarget_class = "a"\npositive = "b"\n')
    model = yaml.safe_load(result.text)["config"]["process"][0]["model"]
    assert model["is_xl"] is is_xl
    assert ("xl" in model["name_or_path"]) is is_xl
    assert any(note.kind == "added" and "base model" in note.was for note in result.conversion.report.notes)


def test_our_own_job_becomes_a_slider_job_with_its_settings(to_yaml: Convert):
    """Under ai-toolkit's names; what it has not is lost by name."""
    text = (
        "job: extension\nconfig:\n  name: n\n  process:\n    - type: leco\n      device: auto\n"
        "      model: {name_or_path: m}\n      train: {steps: 7, lr: 1e-3, lr_warmup_steps: 2}\n"
        "      leco: {max_denoising_steps: 9, denoise_guidance_scale: 2, target_class: a, positive: b}\n"
    )
    result = to_yaml(text, "source.yaml", to="ai-toolkit")
    process = yaml.safe_load(result.text)["config"]["process"][0]
    assert (process["train"]["steps"], process["train"]["max_denoising_steps"]) == (7, 9)
    assert process["model"]["name_or_path"] == "m"
    lost = result.lost()
    assert {"config.process[0].train.lr_warmup_steps", "config.process[0].leco.denoise_guidance_scale"} <= set(lost)


def test_more_targets_than_steps_are_reported(to_yaml: Convert):
    """ai-toolkit would drop the last of them."""
    entries = '[[targets]]\ntarget_class = "a"\npositive = "b"\n' * 1601
    assert any("first 1600 targets" in note.was for note in to_yaml(entries).conversion.report.notes)


def test_the_built_in_model_is_none_of_ai_toolkits(to_yaml: Convert):
    """Its name stays, and the report says that it means nothing there."""
    text = (
        "job: extension\nconfig:\n  name: n\n  process:\n    - type: leco\n"
        "      model: {name_or_path: 'builtin:tiny'}\n      leco: {target_class: a, positive: b}\n"
    )
    assert "config.process[0].model.name_or_path" in to_yaml(text, "source.yaml", to="ai-toolkit").lost()


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        (HOST_JOB, "a.yaml", {"to": "ai-toolkit"}),
        ('target = "a"\n', "a.toml", {"to": "toml"}),
        ('target = "a"\n', "a.toml", {"job": True}),
        ("- target: a\n", "a.yaml", {"target": Path("x.txt")}),
        ("- target: a\n", "a.yaml", {"to": "toml", "target": Path("x.yaml")}),
        ("- target: a\n", "a.yaml", {"job": Path("job.toml")}),
    ],
)
def test_what_makes_no_sense_together_is_refused(text: str, name: str, options: dict[str, object], refused: Refused):
    """With a fix."""
    (problem,) = refused(text, name, **options)
    assert problem.fix
