"""sd-scripts' command lines: what they set, what they are refused for, and the files that they name."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from leco_plugin.commands.main import train_from_flags
from leco_plugin.config.schema import JobConfig
from leco_plugin.config.sd_flags import ALGORITHMS, FLAGS, NETWORK_ARGS, NETWORK_MODULES, REQUIRED, options
from leco_plugin.config.sd_scripts import FlagsJob, load_flags
from leco_plugin.errors import ConfigError, Problem

ROOT = Path(__file__).parents[2]
SD_GUIDE = shlex.split("""
  --pretrained_model_name_or_path=builtin:tiny
  --prompts_file=prompts.toml
  --output_dir=output
  --output_name=my_leco
  --network_dim=8
  --network_alpha=4
  --learning_rate=1e-4
  --optimizer_type=AdamW8bit
  --max_train_steps=500
  --max_denoising_steps=40
  --mixed_precision=bf16
  --sdpa
  --gradient_checkpointing
  --save_every_n_steps=100
""")
SDXL_GUIDE = shlex.split("""
  --pretrained_model_name_or_path=sdxl_model.safetensors
  --prompts_file=prompts.toml
  --output_dir=output
  --output_name=my_sdxl_slider
  --network_dim=8
  --network_alpha=4
  --learning_rate=1e-4
  --optimizer_type=AdamW8bit
  --max_train_steps=1000
  --max_denoising_steps=40
  --mixed_precision=bf16
  --sdpa
  --gradient_checkpointing
  --save_every_n_steps=200
""")
PARSER = json.loads((ROOT / "tests" / "golden" / "sd_scripts" / "flags.json").read_text("utf-8"))
"""Arguments of sd-scripts' train_leco.py and sdxl_train_leco.py, with their kinds, defaults and choices."""
LEAST = [*SD_GUIDE[:4], "--learning_rate=1e-4"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a prompt file, where the commands are typed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.toml").write_text('[[prompts]]\ntarget = "red"\nresolution = 64\n', encoding="utf-8")
    return tmp_path


def load(*more: str, sdxl: bool = False) -> FlagsJob:
    return load_flags([*LEAST, *more], sdxl=sdxl)


def refused(*arguments: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_flags(arguments, sdxl=False)
    return caught.value.problems


def option(job: JobConfig, dotted: str) -> Any:
    found: Any = job
    for name in dotted.split("."):
        found = getattr(found, name)
    return found


def test_the_guide_s_command_for_stable_diffusion_is_taken_as_it_stands():
    """Every flag reaches the option that means the same."""
    job = load_flags(SD_GUIDE, sdxl=False).job
    expected = {
        "model.name_or_path": "builtin:tiny",
        "model.is_xl": False,
        "output_folder": Path("output"),
        "name": "my_leco",
        "network.type": "lora",
        "network.linear": 8,
        "network.linear_alpha": 4.0,
        "train.lr": 1e-4,
        "train.optimizer": "adamw8bit",
        "train.steps": 500,
        "leco.max_denoising_steps": 40,
        "train.dtype": "bf16",
        "train.gradient_checkpointing": True,
        "save.save_every": 100,
        "save.dtype": "bfloat16",
        "save.max_step_saves_to_keep": None,
    }
    assert {name: option(job, name) for name in expected} == expected
    assert [pair.target for pair in job.pairs] == ["red"]


def test_the_guide_s_command_for_sdxl_is_taken_as_it_stands():
    """The same flags; the model is confirmed to be SDXL."""
    job = load_flags(SDXL_GUIDE, sdxl=True).job
    assert (job.model.is_xl, job.name, job.train.steps, job.save.save_every) == (True, "my_sdxl_slider", 1000, 200)


def test_every_flag_is_followed_refused_or_said_to_change_nothing():
    """One of the three, and what it sets is an option of the schema."""
    for name, flag in FLAGS.items():
        assert sum(map(bool, (flag.to, flag.refused, flag.note))) == 1, name
    assert [name for name, to in options() if not _in_schema(to)] == []


def _in_schema(dotted: str) -> bool:
    model: Any = JobConfig
    for name in dotted.split("."):
        if name not in model.model_fields:
            return False
        model = model.model_fields[name].annotation
    return True


VALUES = {
    "v2": ("", "model.is_v2", True),
    "v_parameterization": ("", "model.is_v_pred", True),
    "zero_terminal_snr": ("", "model.zero_terminal_snr", True),
    "clip_skip": ("2", "model.clip_skip", 2),
    "max_token_length": ("225", "model.max_token_length", 225),
    "network_weights": ("a.safetensors", "network.network_weights", Path("a.safetensors")),
    "network_dropout": ("0.1", "network.dropout", 0.1),
    "max_denoising_steps": ("20", "leco.max_denoising_steps", 20),
    "leco_denoise_guidance_scale": ("1.5", "leco.denoise_guidance_scale", 1.5),
    "unet_lr": ("3e-4", "train.unet_lr", 3e-4),
    "seed": ("42", "training_seed", 42),
    "gradient_accumulation_steps": ("4", "train.gradient_accumulation", 4),
    "max_grad_norm": ("0", "train.max_grad_norm", 0.0),
    "min_snr_gamma": ("5", "train.min_snr_gamma", 5.0),
    "noise_offset": ("0.05", "train.noise_offset", 0.05),
    "loss_type": ("huber", "train.loss_type", "huber"),
    "lr_scheduler": ("cosine_with_restarts", "train.lr_scheduler", "cosine_with_restarts"),
    "lr_warmup_steps": ("5%", "train.lr_warmup_steps", 0.05),
    "resume": ("newest", "resume", "newest"),
    "save_model_as": ("pt", "save.format", "pt"),
    "save_precision": ("float", "save.dtype", "float32"),
    "training_comment": ("my comment", "save.training_comment", "my comment"),
    "save_last_n_steps": ("300", "save.save_last_n_steps", 300),
    "save_last_n_steps_state": ("100", "save.save_last_n_steps_state", 100),
    "save_state": ("", "save.save_state", True),
    "save_state_on_train_end": ("", "save.save_state_on_train_end", True),
    "no_metadata": ("", "save.no_metadata", True),
    "logging_dir": ("logs", "logging.logging_dir", Path("logs")),
    "log_prefix": ("x", "logging.log_prefix", "x"),
    "log_tracker_name": ("mine", "logging.log_tracker_name", "mine"),
    "log_with": ("wandb", "logging.log_with", "wandb"),
    "sdpa": ("", "memory.attention", "sdpa"),
    "xformers": ("", "memory.attention", "xformers"),
    "mem_eff_attn": ("", "memory.attention", "mem_eff"),
    "torch_compile": ("", "memory.torch_compile", True),
    "dynamo_backend": ("eager", "memory.dynamo_backend", "eager"),
    "fp8_base": ("", "memory.fp8_base", True),
    "lowram": ("", "memory.lowram", True),
    "use_8bit_adam": ("", "train.optimizer", "adamw8bit"),
    "use_lion_optimizer": ("", "train.optimizer", "lion"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_flag_sets_its_option(name):
    """On the command line, and as TOML in a section that has any name."""
    text, to, value = VALUES[name]
    given = [f"--{name}={text}"] if text else [f"--{name}"]
    assert option(load(*given).job, to) == value
    kind = FLAGS[name].kind
    written = "true" if kind == "switch" else text if kind in ("int", "float") else json.dumps(text)
    Path("more.toml").write_text(f"[any_name]\n{name} = {written}\n", encoding="utf-8")
    assert option(load("--config_file=more").job, to) == value


@pytest.mark.parametrize(
    ("given", "kind", "conv"),
    [
        (["--network_module=networks.lora"], "lora", None),
        (["--network_args", "conv_dim=4", "conv_alpha=2"], "lora", 4),
        (["--network_module=lycoris.kohya", "--network_args", "algo=loha"], "loha", None),
        (["--network_module=lycoris.kohya", "--network_args", "algo=lora", "dora_wd=False"], "lora", None),
        (["--network_module=networks.lokr"], "lokr", None),
    ],
)
def test_networks_have_the_names_that_people_know(given, kind, conv):
    """sd-scripts' and LyCORIS'."""
    network = load(*given).job.network
    assert (network.type, network.conv) == (kind, conv)


def test_pictures_are_drawn_as_sd_scripts_describes_them(here):
    """One prompt a line with its flags, 30 steps at guidance 7.5; a line may be a remark, and 0 asks for none."""
    (here / "s.txt").write_text("# mine\na cat --n bad --d 1 --l 5\n\na dog --w 64 --h 128 --s 9\n", encoding="utf-8")
    flags = ["--sample_prompts=s.txt", "--sample_every_n_steps=50", "--sample_sampler=euler_a"]
    sample = load(*flags).job.sample
    assert (sample.sample_every, sample.sampler, sample.sample_steps, sample.guidance_scale) == (50, "euler_a", 30, 7.5)
    assert [one.model_dump() for one in sample.asked] == [
        {"prompt": "a cat", "neg": "bad", "seed": 1, "guidance_scale": 5.0},
        {"prompt": "a dog", "width": 64, "height": 128, "sample_steps": 9},
    ]
    assert load("--sample_prompts=s.txt", "--sample_every_n_steps=0").job.sample.asked == ()
    (here / "s.txt").write_text("a cat --x 1", encoding="utf-8")
    (problem,) = refused(*LEAST, "--sample_prompts=s.txt")
    assert str(problem).startswith("--sample_prompts: no flag of a prompt is called --x")
    for path, message in (("s.toml", "must be a text file"), ("gone.txt", "no such file")):
        (problem,) = refused(*LEAST, f"--sample_prompts={path}")
        assert message in problem.message


def test_optimizer_args_are_read_as_values():
    """Numbers, tuples and switches; text may stand without the quotes that a shell takes away."""
    given = ["--optimizer_args", "weight_decay=0.01", "betas=(0.9, 0.99)", "amsgrad=True", "mode=fast"]
    train = load("--optimizer_type=torch.optim.AdamW", *given).job.train
    assert train.optimizer == "torch.optim.AdamW"
    assert train.optimizer_params == {"weight_decay": 0.01, "betas": (0.9, 0.99), "amsgrad": True, "mode": "fast"}


def test_optimizer_args_run_nothing():
    """What is no value stays text."""
    given = load("--optimizer_args", "weight_decay=__import__('os').getcwd()").job.train.optimizer_params
    assert given == {"weight_decay": "__import__('os').getcwd()"}


@pytest.mark.parametrize(("mixed", "trained", "saved"), [("no", "fp32", "float32"), ("fp16", "fp16", "float16")])
def test_files_have_the_training_precision_unless_said_otherwise(mixed, trained, saved):
    """As sd-scripts' guide has it."""
    job = load(f"--mixed_precision={mixed}").job
    assert (job.train.dtype, job.save.dtype) == (trained, saved)
    assert load(f"--mixed_precision={mixed}", "--save_precision=bf16").job.save.dtype == "bfloat16"


def test_full_precision_flags_need_their_mixed_precision():
    """The network itself is then in that precision."""
    assert load("--mixed_precision=bf16", "--full_bf16").job.network.dtype == "bf16"
    (problem,) = refused(*LEAST, "--full_fp16")
    assert str(problem) == "--full_fp16: needs mixed_precision fp16, not no\n  fix: add --mixed_precision=fp16"


@pytest.mark.parametrize("name", [name for name, flag in FLAGS.items() if flag.refused])
def test_a_flag_that_means_nothing_here_is_refused_in_one_sentence(name):
    """With its name and the reason; at a value that asks for nothing it may stay."""
    flag = FLAGS[name]
    given = [f"--{name}"] if flag.kind == "switch" else [f"--{name}", "7"]
    (problem,) = refused(*LEAST, *given)
    assert str(problem) == f"--{name}: {flag.refused}\n  fix: leave it out"
    assert "\n" not in flag.refused


@pytest.mark.parametrize("name", [name for name, flag in FLAGS.items() if flag.note])
def test_a_flag_that_changes_nothing_is_noted(name):
    """And the run goes on."""
    given = [f"--{name}"] if FLAGS[name].kind == "switch" else [f"--{name}", "7"]
    (note,) = load(*given).notes
    assert note == f"--{name} changes nothing: {FLAGS[name].note}"


@pytest.mark.parametrize(
    ("given", "message", "fix"),
    [
        (["--network_dims=8"], "--network_dims: unknown flag", "did you mean --network_dim?"),
        (["--network_d=8"], "--network_d: unknown flag", "did you mean --network_dim?"),
        (["nonsense"], "'nonsense': no flag", "remove it"),
        (["--max_train_steps=many"], "--max_train_steps: must be a whole number, not the text 'many'", ""),
        (["--max_train_steps"], "argument --max_train_steps: expected one argument", ""),
        (["--max_train_steps=0"], "--max_train_steps: must be at least 1, not 0", ""),
        (["--lr_scheduler=cosin"], "--lr_scheduler: must be constant or", "did you mean 'cosine'?"),
        (["--optimizer_type=AdamW9bit"], "--optimizer_type: no optimizer is called", "did you mean 'adamw8bit'?"),
        (["--optimizer_type=Lion", "--use_8bit_adam"], "contradicts --use_8bit_adam", "keep one"),
        (["--optimizer_args", "weight_decay"], "--optimizer_args: 'weight_decay' sets nothing", "key=value"),
        (["--optimizer_args", "lr=1"], "--optimizer_args: lr is not set here", "leave it out"),
        (["--network_module=networks.dylora"], "there is no networks.dylora", "networks.lora"),
        (["--network_args", "conv_dims=4"], "conv_dims=4 is not there", "did you mean conv_dim?"),
        (["--network_args", "conv_dim=x"], "--network_args: must be a whole number", ""),
        (["--mixed_precision=fp8"], "--mixed_precision: must be no, fp16 or bf16", ""),
        (["--sdpa", "--xformers"], "--sdpa: contradicts --xformers", "keep one"),
        (["--output_name=a/b"], "--output_name: is used as a file name", ""),
        (["--log_with=tensorboard"], "log_with tensorboard needs logging_dir", ""),
        (["--lr_scheduler_power=2"], "lr_scheduler_power means nothing to lr_scheduler constant", ""),
        (["--prompts_file=none.toml"], "there is no such file", ""),
        (["--config_file=none"], "there is no such file", ""),
    ],
)
def test_what_cannot_be_meant_is_refused(given, message, fix):
    """With the flag's name, the reason and a way out."""
    problems = refused(*LEAST, *given)
    assert len(problems) == 1
    assert message in str(problems[0])
    assert fix in problems[0].fix


def test_what_is_required_is_said_at_once():
    """All of it."""
    assert [problem.message for problem in refused()] == [f"--{name} is missing" for name in REQUIRED]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, flag in FLAGS.items() for value in flag.off])
def test_a_flag_that_is_off_asks_for_nothing(here, name, value):
    """On the command line and in a settings file: the job is what it is without the flag, and nothing is said."""
    kind = FLAGS[name].kind
    (here / "off.toml").write_text(f"{name} = {json.dumps([value] if kind == 'texts' else value)}\n", "utf-8")
    for given in ([f"--{name}", str(value)], ["--config_file=off.toml"]):
        assert load(*given) == load()


@pytest.mark.parametrize("value", ['""', "[]", "false"])
def test_what_a_gui_leaves_empty_asks_for_nothing(here, value):
    """GUIs write every field."""
    names = sorted(set(FLAGS) - {*REQUIRED, "config_file"})
    (here / "off.toml").write_text("".join(f"{name} = {value}\n" for name in names), "utf-8")
    assert load("--config_file=off.toml") == load()


@pytest.mark.parametrize("name", PARSER)
def test_every_argument_of_sd_scripts_parser_has_its_row(here, name):
    """Of the same kind; at the value that sd-scripts has anyway it is never refused."""
    flag, said = FLAGS[name], PARSER[name]
    assert flag.kind == said["type"]
    if name in (*REQUIRED, "config_file") or "default" not in said or flag.kind == "switch":
        return
    (here / "default.toml").write_text(f"{name} = {json.dumps(said['default'])}\n", "utf-8")
    found = load("--config_file=default.toml")
    assert flag.note or found.notes == ()


def test_a_learning_rate_that_is_not_given_is_said():
    """sd-scripts' own is so low that nothing would happen."""
    (note,) = load_flags(SD_GUIDE[:4], sdxl=False).notes
    assert note == "--learning_rate is not given: 1e-4 is taken here, where sd-scripts takes 2e-6"


GUI_TOML = """
clip_skip = 1
dynamo_backend = "no"
gradient_accumulation_steps = 1
gradient_checkpointing = true
learning_rate = 1e-4
leco_denoise_guidance_scale = 3.0
lr_scheduler = "constant"
lr_scheduler_args = []
lr_scheduler_power = 1
max_denoising_steps = 8
max_grad_norm = 1.0
max_train_steps = 4
mixed_precision = "no"
network_alpha = 4.0
network_args = []
network_dim = 8
network_module = "networks.lora"
optimizer_args = []
optimizer_type = "AdamW"
output_dir = "out"
output_name = "test_leco"
pretrained_model_name_or_path = "builtin:tiny"
prompts_file = "prompts.toml"
save_every_n_steps = 2
save_model_as = "safetensors"
save_precision = "fp16"
sdpa = true
unet_lr = 1e-4
wandb_run_name = "test_leco"
"""
GUI_PRESET = {
    "pretrained_model_name_or_path": "builtin:tiny", "v2": False, "v_parameterization": False, "sdxl": False,
    "output_dir": "out", "output_name": "test_leco", "save_model_as": "safetensors", "save_precision": "fp16",
    "training_comment": "", "no_metadata": False, "prompts_file": "prompts.toml", "network_module": "networks.lora",
    "network_dim": 8, "network_alpha": 4, "network_dropout": 0, "network_args": "", "network_weights": "",
    "dim_from_weights": False, "learning_rate": 1e-4, "unet_lr": 1e-4, "optimizer": "AdamW", "optimizer_args": "",
    "lr_scheduler": "constant", "lr_scheduler_args": "", "lr_warmup_steps": 0, "lr_scheduler_num_cycles": "",
    "lr_scheduler_power": 1, "max_train_steps": 4, "max_grad_norm": 1, "max_denoising_steps": 8,
    "leco_denoise_guidance_scale": 3, "seed": 0, "gradient_accumulation_steps": 1, "mixed_precision": "no",
    "num_cpu_threads_per_process": 2, "num_processes": 1, "num_machines": 1, "multi_gpu": False, "gpu_ids": "",
    "main_process_port": 0, "dynamo_backend": "no", "dynamo_mode": "default", "dynamo_use_fullgraph": False,
    "dynamo_use_dynamic": False, "extra_accelerate_launch_args": "", "gradient_checkpointing": True,
    "full_fp16": False, "full_bf16": False, "xformers": "sdpa", "mem_eff_attn": False, "clip_skip": 1,
    "noise_offset": 0, "zero_terminal_snr": False, "min_snr_gamma": 0, "save_every_n_steps": 2,
    "save_last_n_steps": 0, "save_last_n_steps_state": 0, "save_state": False, "save_state_on_train_end": False,
    "resume": "", "logging_dir": "", "log_with": "", "log_tracker_name": "", "log_tracker_config": "",
    "log_config": False, "wandb_api_key": "", "wandb_run_name": "",
}  # fmt: skip


def test_what_kohya_ss_writes_for_sd_scripts_trains_as_it_stands(here):
    """A run's name for wandb without wandb is a note."""
    (here / "gui.toml").write_text(GUI_TOML, "utf-8")
    found = load_flags(["--config_file", "gui.toml"], sdxl=False)
    assert found.notes == ("gui.toml:30: wandb_run_name changes nothing: log_with is not wandb",)
    assert (found.job.train.steps, found.job.network.linear, found.job.model.clip_skip) == (4, 8, 1)
    assert train_from_flags(["--config_file", "gui.toml"], sdxl=False) == 0
    assert (here / "out" / "test_leco.safetensors").is_file()


def test_a_preset_of_kohya_ss_means_what_its_gui_makes_of_it(here):
    """The same job as the file for sd-scripts, from all that the tab saves."""
    (here / "gui.toml").write_text(GUI_TOML, "utf-8")
    (here / "gui.json").write_text(json.dumps(GUI_PRESET), "utf-8")
    found = load_flags(["--config_file", "gui.json"], sdxl=False)
    assert found.notes == ()
    assert found.job == load_flags(["--config_file", "gui.toml"], sdxl=False).job


@pytest.mark.parametrize(
    ("changed", "key", "says"),
    [
        ({"sdxl": True}, "sdxl", "sdxl_train_leco"),
        ({"num_processes": 2}, "num_processes", "accelerate launch"),
        ({"multi_gpu": True}, "multi_gpu", "accelerate launch"),
        ({"network_dim": "many"}, "network_dim", "whole number"),
        ({"network_dims": 4}, "network_dims", "did you mean 'network_dim'?"),
        ({"optimizer": "AdamX"}, "optimizer", "no optimizer"),
    ],
)
def test_what_is_wrong_in_a_preset_is_said_at_its_key(here, changed, key, says):
    """As in every file."""
    (here / "gui.json").write_text(json.dumps({**GUI_PRESET, **changed}, indent=1), "utf-8")
    (problem,) = refused("--config_file=gui.json")
    assert problem.where is not None
    assert problem.where.key == key
    assert problem.where.line is not None
    assert says in f"{problem.message} {problem.fix}"


def test_a_preset_for_training_from_images_is_refused_in_one_sentence(here):
    """kohya_ss saves those of all its tabs alike."""
    (here / "gui.json").write_text('{"LoRA_type": "Standard", "train_data_dir": "x", "epoch": 1}', "utf-8")
    assert "training from images" in str(refused(*LEAST, "--config_file=gui.json")[0])


@pytest.mark.parametrize(
    "given",
    [
        ["weight_decay=0.1", "betas=0.9,0.99"],
        ["weight_decay=0.1 betas=0.9,0.99"],
        ["weight_decay=0.1", "betas=(0.9, 0.99)"],
    ],
)
def test_optimizer_args_may_stand_as_people_write_them(given):
    """Apart, in one pair of quotes, with brackets or without."""
    params = load("--optimizer_args", *given, "amsgrad=true").job.train.optimizer_params
    assert params == {"weight_decay": 0.1, "betas": (0.9, 0.99), "amsgrad": True}


@pytest.mark.parametrize(
    "given",
    [
        ["--network_module=lycoris.kohya", "--network_args", "algo=lora", "dora_wd=True"],
        ["--network_module=lycoris.kohya", "--network_args", "algo=loha", "dora_wd=1"],
        ["--network_module=lycoris.kohya", "--network_args", "algo=dora"],
        ["--network_module=networks.dora"],
    ],
)
def test_dora_is_refused_with_the_reason(given):
    """In one sentence."""
    (problem,) = refused(*LEAST, *given)
    assert "misread such files" in problem.message


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        (["--network_alpha=0"], (4, 4.0, None, 1.0)),
        (["--network_dim=8", "--network_alpha=0"], (8, 8.0, None, 1.0)),
        (["--network_args", "conv_dim=0"], (4, 1.0, None, 1.0)),
        (["--network_args", "conv_dim=2", "conv_alpha=0"], (4, 1.0, 2, 2.0)),
        (
            ["--network_args", "conv_dim=0 conv_alpha=0 dropout=0 factor=-1 use_tucker=False rs_lora=0"],
            (4, 1.0, None, 1.0),
        ),
        (["--network_args", "dora_wd=False", "block_size=None"], (4, 1.0, None, 1.0)),
        (["--network_args", "", "--optimizer_args", ""], (4, 1.0, None, 1.0)),
    ],
)
def test_what_is_off_in_sd_scripts_is_off(given, sizes):
    """Alpha 0 is the rank, dimension 0 no network; LyCORIS' switches that are off, and empty words, ask for nothing."""
    network = load(*given).job.network
    assert (network.linear, network.linear_alpha, network.conv, network.conv_alpha) == sizes


def test_mem_eff_attn_counts_beside_what_the_gui_chose():
    """As sd-scripts has it."""
    found = load("--sdpa", "--mem_eff_attn")
    assert found.job.memory.attention == "mem_eff"
    assert found.notes == ("--sdpa changes nothing beside mem_eff_attn, which counts",)


def test_a_config_file_is_flattened_and_the_command_line_wins(here):
    """Sections mean nothing; flags may all stand in the file; what a GUI leaves empty asks for nothing."""
    (here / "all.toml").write_text(
        'output_name = "from_file"\n[model]\npretrained_model_name_or_path = "builtin:tiny"\n'
        '[more]\nprompts_file = "prompts.toml"\noutput_dir = "out"\nnetwork_dim = 16\nmax_train_steps = 7\n'
        'lr_warmup_steps = 0.1\nsdpa = true\nxformers = false\nresume = ""\noptimizer_args = ["weight_decay=0.5"]\n',
        encoding="utf-8",
    )
    job = load_flags(["--config_file", "all.toml", "--network_dim=2"], sdxl=False).job
    assert (job.name, job.network.linear, job.train.steps) == ("from_file", 2, 7)
    assert (job.train.lr_warmup_steps, job.train.optimizer_params) == (0.1, {"weight_decay": 0.5})


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[a]\nnetwork_dims = 4\n", 2, "unknown key"),
        ('[a]\n\nnetwork_dim = "four"\n', 3, "must be a whole number, not the text 'four'"),
        ("[a]\nnetwork_dim = 0\n", 2, "must be at least 1"),
        ("[a]\n[b]\nenable_bucket = true\n", 3, "reads no images"),
        ("sdpa = 1\n", 1, "must be true or false"),
        ("[a]\nnetwork_dim = {x = 1}\n", 2, "must be a whole number, not a table"),
        ("[a]\nnetwork_dim = \n", 2, ""),
    ],
)
def test_errors_in_a_config_file_have_its_line(here, text, line, message):
    """File, line, key, and the reason."""
    (here / "bad.toml").write_text(text, encoding="utf-8")
    (problem,) = refused(*LEAST, "--config_file=bad.toml")
    assert problem.where is not None
    assert (problem.where.file.name, problem.where.line) == ("bad.toml", line)
    assert message in problem.message


def test_a_key_that_stands_twice_counts_where_it_stands_last(here):
    """As sd-scripts has it; a note says so."""
    (here / "twice.toml").write_text("[a]\nnetwork_dim = 4\n[b]\nnetwork_dim = 5\n", encoding="utf-8")
    found = load("--config_file=twice")
    assert found.job.network.linear == 5
    assert found.notes == ("twice.toml:4: b.network_dim counts, not twice.toml:2: a.network_dim",)


def test_adafactor_s_rate_is_noted():
    """sd-scripts leaves it out unless told otherwise."""
    (note,) = load("--optimizer_type=AdaFactor").notes
    assert "follows --learning_rate here" in note
    assert load("--optimizer_type=AdaFactor", "--optimizer_args", "relative_step=True").notes == ()


def test_all_names_of_networks_are_kinds_of_ours():
    """Whatever the table says can be made."""
    for kind in (*NETWORK_MODULES.values(), *ALGORITHMS.values()):
        assert JobConfig.model_fields["network"].annotation(type=kind).type == kind
    assert all(_in_schema(to) for _, to in NETWORK_ARGS.values())


def test_the_command_trains(capfd):
    """The guide's flags with a few steps; a missing package is one sentence and exit code 2."""
    few = ["--max_train_steps=2", "--max_denoising_steps=4", "--mixed_precision=no"]
    assert train_from_flags([*SD_GUIDE, *few, "--optimizer_type=AdamW"], sdxl=False) == 0
    with safe_open("output/my_leco.safetensors", "pt") as file:
        assert file.metadata()["ss_network_dim"] == "8"
    capfd.readouterr()
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        assert train_from_flags([*SD_GUIDE, *few], sdxl=False) == 2
        assert "needs the package bitsandbytes" in capfd.readouterr().err


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_commands_train_small_models_of_the_other_families(here, capfd, family):
    """The guide's two command lines with the model's own path and fewer steps, stopped and resumed by flags alone."""
    from small_models import model_folder

    folder, _ = model_folder(family, here / "model")
    sdxl = family == "sdxl"
    (here / "prompts.toml").write_text(
        'guidance_scale = 2.0\nresolution = 64\n[[targets]]\ntarget_class = "a"\npositive = "b"\nnegative = "c"\n'
    )
    guide = [*(SDXL_GUIDE if sdxl else SD_GUIDE), *(() if sdxl else ("--v2",)), "--optimizer_type=AdamW", "--seed=1"]
    short = ["--max_denoising_steps=4", "--save_state", "--save_every_n_steps=1", "--logging_dir="]
    given = [*guide, *short, f"--pretrained_model_name_or_path={folder}"]
    assert train_from_flags([*given, "--max_train_steps=2"], sdxl=sdxl) == 0, capfd.readouterr().err
    assert train_from_flags([*given, "--max_train_steps=3", "--resume=newest"], sdxl=sdxl) == 0
    name = "my_sdxl_slider" if sdxl else "my_leco"
    with safe_open(f"output/{name}.safetensors", "pt") as file:
        assert file.metadata()["ss_steps"] == "3"
    assert train_from_flags([*given, "--max_train_steps=3", "--output_name=other"], sdxl=not sdxl) == 2
    assert not Path("output/other.safetensors").exists()


def test_half_of_what_a_launcher_says_is_refused(monkeypatch, capsys):
    """Processes that do not know one another would write the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train_from_flags(LEAST, sdxl=False) == 2
    assert "--num_processes 2" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["train_leco", "sdxl_train_leco"])
def test_accelerate_launches_the_modules(here, module):
    """As the guide writes it; a model of the other kind is refused, and the file is there."""
    few = ["--max_train_steps=1", "--max_denoising_steps=2", "--optimizer_type=AdamW"]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes=1",
        "--mixed_precision",
        "bf16",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "-m", f"leco_plugin.{module}", *SD_GUIDE, *few], env=environment, capture_output=True, text=True
    )
    if module == "train_leco":
        assert done.returncode == 0, done.stderr
        assert (here / "output" / "my_leco.safetensors").is_file()
    else:
        assert done.returncode != 0
        assert "is_xl" in done.stderr or "SDXL" in done.stderr
        assert not list((here / "output").glob("*.safetensors"))
