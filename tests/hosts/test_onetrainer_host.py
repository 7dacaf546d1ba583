"""LECO in the real OneTrainer: LECO_ONETRAINER=its folder, LECO_ONETRAINER_PYTHON=its Python, pytest -m onetrainer."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from models import Recorder, seeded, tiny_job
from safetensors.torch import load_file
from small_models import model_folder
from tiny_flow import z_image_folder

from leco_plugin.config.build import load_prompts
from leco_plugin.events import RunEnded, StepDone
from leco_plugin.hookspecs import hookimpl
from leco_plugin.network.lora_file import write_tensors
from leco_plugin.observers.history import history_path, read_history
from leco_plugin.plugins import plugin_manager, run_job
from leco_plugin.tiny import MODEL_FOLDER

ROOT, PYTHON = os.environ.get("LECO_ONETRAINER"), os.environ.get("LECO_ONETRAINER_PYTHON")
pytestmark = [
    pytest.mark.onetrainer,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (ROOT and PYTHON), reason="set LECO_ONETRAINER and LECO_ONETRAINER_PYTHON to OneTrainer's folder and Python"
    ),
]
PROMPTS = """
[[targets]]
target = "a red circle"
positive = "red"
neutral = "a circle"
guidance_scale = 1.5
resolution = 64
dynamic_crops = true

[[targets]]
target = "a circle"
positive = "red"
unconditional = "blue"
neutral = "a circle"
action = "enhance"
guidance_scale = 1.0
multiplier = -1.5
batch_size = 2
resolution = 64
"""
FLOAT = {"weight_dtype": "FLOAT_32"}
CONFIG: dict[str, Any] = {
    "__version": 11,
    "training_method": "LORA",
    "model_type": "STABLE_DIFFUSION_15",
    "base_model_name": str(MODEL_FOLDER),
    "output_model_format": "KOHYA_LORA",
    "output_dtype": "FLOAT_32",
    "epochs": 1,
    "train_dtype": "FLOAT_32",
    "train_device": "cpu",
    "learning_rate": 1e-3,
    "learning_rate_warmup_steps": 0,
    "lora_rank": 4,
    "lora_alpha": 2.0,
    "tensorboard": False,
    "layer_filter_preset": "attn-mlp",
    "samples": [],
    **{f"{name}_unit": "NEVER" for name in ("sample_after", "backup_after", "save_every")},
    "backup_before_save": False,
    **dict.fromkeys(("unet", "transformer", "text_encoder", "text_encoder_2", "vae"), FLOAT),
}


@dataclass
class Workplace:
    """A folder with a config and prompts, in which the host is run."""

    folder: Path

    @property
    def lora(self) -> Path:
        return self.folder / "lora.safetensors"

    def run(self, config: dict[str, Any], *flags: str, prompts: str = PROMPTS) -> str:
        """Train; returns what the host said, and fails where it failed."""
        done = self.start(config, *flags, prompts=prompts)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def start(self, config: dict[str, Any], *flags: str, prompts: str = PROMPTS) -> subprocess.CompletedProcess[str]:
        return self.python(*self.command(config, *flags, prompts=prompts))

    def command(self, config: dict[str, Any], *flags: str, prompts: str = PROMPTS) -> list[str]:
        """Write what a run needs; gives the arguments of Python that start it."""
        self.folder.mkdir(exist_ok=True)
        self.write(self.folder / "config.json", config)
        (self.folder / "prompts.toml").write_text(prompts)
        command = ["-m", "leco_plugin", "host", "run", "onetrainer", "--root", str(ROOT), "--seed", "5"]
        return [*command, "--config-path", "config.json", "--prompts", "prompts.toml", *flags]

    def write(self, path: Path, config: dict[str, Any]) -> None:
        """A config of the host whose files are in this folder."""
        own = {
            "workspace_dir": str(self.folder / "workspace"),
            "cache_dir": str(self.folder / "cache"),
            "output_model_destination": str(self.lora),
        }
        path.write_text(json.dumps({**CONFIG, **own, **config}))

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the host's Python, with LECO in it."""
        return subprocess.run(
            [str(PYTHON), *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        source = Path(__file__).parents[2]
        places = {"PYTHONPATH": f"{source}{os.pathsep}{source / 'converters'}", "HF_HUB_OFFLINE": "1"}
        return {**os.environ, **places}

    def losses(self) -> list[float]:
        """What the host wrote to TensorBoard, step by step."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (folder,) = (self.folder / "workspace" / "tensorboard").iterdir()
        events = EventAccumulator(str(folder)).Reload()
        return [event.value for event in events.Scalars("loss/train_step")]


@pytest.fixture
def place(tmp_path):
    return Workplace(tmp_path / "host")


class Watching(Recorder):
    @hookimpl
    def leco_observers(self, run: object) -> list[Recorder]:
        return [self]


def builtin_losses(folder: Path, prompts: Path, **sections: Any) -> tuple[list[float], Path]:
    """Losses and file of the same run in the built-in host."""
    watching = Watching()
    job = tiny_job(folder, pairs=load_prompts(prompts).pairs, save={"dtype": "float32", "overwrite": True}, **sections)
    outcome = run_job(job, manager=plugin_manager([watching], installed=False))
    return [event.loss for event in watching.of(StepDone)], outcome.path


def start_file(folder: Path, prompts: Path, model: dict[str, str]) -> Path:
    """A LoRA with random weights on the layers that both hosts train."""
    _, path = builtin_losses(folder, prompts, model=model, train={"steps": 1})
    tensors = {
        key: tensor if key.endswith("alpha") else 0.05 * torch.randn(tensor.shape, generator=seeded(number))
        for number, (key, tensor) in enumerate(sorted(load_file(path).items()))
    }
    write_tensors(folder / "start.safetensors", tensors, {})
    return folder / "start.safetensors"


POOL = {"walk": "pool", "preserve": ["blue"], "max_denoising_steps": 8}
AUTO = {**POOL, "preserve": ["blue", "auto"]}
"""What lies near red has to be the same words."""


@pytest.mark.parametrize(
    ("family", "leco", "sampler"),
    [
        pytest.param(None, {"max_denoising_steps": 10}, "ddim", id="SD1, trained"),
        pytest.param(None, AUTO, "euler", id="SD1, trained, pool, what lies near"),
        # the host drops what a model's own scheduler says of timestep_spacing, which ddim has a fixed default for
        pytest.param("sd2", POOL, "ddim", id="SD2 that predicts v"),
        pytest.param("sdxl", POOL, "ddim", id="SDXL"),
    ],
)
def test_the_first_losses_are_those_of_the_builtin_host(place, tmp_path, family, leco, sampler):
    """Same model, prompts, first weights, seed, sampler and settings: the first 20 losses agree to 1e-4."""
    model = {"name_or_path": str(model_of(family, tmp_path) if family else MODEL_FOLDER)}
    place.folder.mkdir()
    prompts = place.folder / "prompts.toml"
    prompts.write_text(PROMPTS)
    start = start_file(tmp_path, prompts, model)
    options = {name: value for name, value in leco.items() if name != "preserve"}
    flags = [f"--leco={name}={value}" for name, value in options.items()]
    flags += [f"--preserve={prompt}" for prompt in leco.get("preserve", ())]
    config = {"base_model_name": model["name_or_path"], "lora_model_name": str(start)}
    config["model_type"] = FAMILIES[family or "sd1"][0]
    place.run(config, *flags, "--noise-scheduler", sampler, "--epoch-steps", "20")
    expected, _ = builtin_losses(
        tmp_path,
        prompts,
        model=model,
        train={"steps": 20, "lr": 1e-3, "noise_scheduler": sampler},
        network={"linear": 4, "linear_alpha": 2.0, "network_weights": start},
        leco=leco,
    )
    assert place.losses() == pytest.approx(expected, rel=1e-4)
    assert len(expected) == 20


SAMPLE = {"enabled": True, "prompt": "circle", "width": 64, "height": 64, "diffusion_steps": 2, "seed": 1}
FAMILIES = {
    "sd1": ("STABLE_DIFFUSION_15", "epsilon"),
    "sd2": ("STABLE_DIFFUSION_21", "v_prediction"),
    "sdxl": ("STABLE_DIFFUSION_XL_10_BASE", "epsilon"),
    "z-image": ("Z_IMAGE", ""),
}


def model_of(family: str, folder: Path) -> Path:
    """A random model of a few channels, as the host loads it."""
    if family != "z-image":
        path, _ = model_folder(family, folder, prediction_type=FAMILIES[family][1])
        for weights in path.glob("text_encoder*/model.safetensors"):
            # the names that the models in use have; newer transformers write others than the host's reads
            named = {re.sub(r"^(?!text_)", "text_model.", key): value for key, value in load_file(weights).items()}
            write_tensors(weights, named, {"format": "pt"})
        return path
    path = z_image_folder(folder / "model")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(path / "scheduler")
    # the host reads the tokenizer as Qwen's: bytes that merges put together
    shutil.rmtree(path / "tokenizer")
    (path / "tokenizer").mkdir()
    vocabulary = {chr(code): number for number, code in enumerate(range(33, 127), start=2)}
    special = {"<|endoftext|>": 0, "\u0120": 1}
    (path / "tokenizer" / "vocab.json").write_text(json.dumps({**special, **vocabulary}))
    (path / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    template = "{% for message in messages %}{{ message['content'] }}!{% endfor %}"
    settings = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>", "chat_template": template}
    (path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def loads(family: str, model: Path, lora: Path) -> bool:
    """Whether diffusers takes the file, and every layer of it has an effect there."""
    if family == "z-image":
        tensors = load_file(lora)
        return all(key.startswith("transformer.") for key in tensors)
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(model)
    pipeline.load_lora_weights(lora)
    layers = {name.partition(".lora_")[0] for name, _ in pipeline.unet.named_parameters() if ".lora_" in name}
    return len(layers) == sum(key.endswith("alpha") for key in load_file(lora))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_samples_backs_up_and_resumes(place, tmp_path, family):
    """A run that goes on from its backup writes the same file, and the file loads in diffusers."""
    model = model_of(family, tmp_path)
    config = {
        "model_type": FAMILIES[family][0],
        "base_model_name": str(model),
        "output_model_format": "DIFFUSERS_LORA" if family == "z-image" else "KOHYA_LORA",
        "samples": [SAMPLE],
        **{"sample_after": 3, "sample_after_unit": "STEP", "backup_after": 4, "backup_after_unit": "STEP"},
        "dropout_probability": 0.1,
        "ema": "CPU",
        "epochs": 2,
    }
    flags = ["--epoch-steps", "3", "--leco", "walk=pool", "--leco", "pool_size=3", "--leco", "max_denoising_steps=6"]
    place.run(config, *flags)
    first = load_file(place.lora)
    assert all(tensor.isfinite().all() for tensor in first.values())
    assert any(tensor.abs().max() > 0 for key, tensor in first.items() if "up" in key or "lora_B" in key)
    assert loads(family, model, place.lora)
    assert list((place.folder / "workspace" / "samples").rglob("*.*g"))
    (backup,) = (place.folder / "workspace" / "backup").iterdir()
    assert "-backup-3-1-0" in backup.name
    place.lora.unlink()
    said = place.run({**config, "continue_last_backup": True}, *flags)
    assert "Continuing training from backup" in said
    again = load_file(place.lora)
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_ctrl_c_ends_a_run_after_the_step_and_saves(place):
    """With a sentence, and the exit code of Ctrl-C."""
    command = place.command({}, "--steps", "100000", "--leco", "max_denoising_steps=4")
    running = subprocess.Popen(
        [str(PYTHON), *command], cwd=place.folder, env=place.environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    history = history_path(place.folder / "workspace", "lora")
    while running.poll() is None and not (history.is_file() and read_history(history).of(StepDone)):
        time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    said = running.communicate()[0]
    assert running.returncode == 130, said[-3000:]
    (ended,) = read_history(history).of(RunEnded)
    assert ended.interrupted
    assert f"stopped after {ended.steps} step" in said
    assert loads("sd1", MODEL_FOLDER, place.lora)


def test_its_window_trains_with_a_prompt_file(place, tmp_path):
    """Its own buttons and bars, and LECO's LoRA; what cannot be trained is an error there, with the sentence below."""
    place.folder.mkdir()
    if place.python("-c", "import PySide6, matplotlib, onnxruntime").returncode:
        pytest.skip("the host's window needs packages that are not there")
    root = tmp_path / "root"
    (root / "training_presets").mkdir(parents=True)
    # the window writes what it shows into its presets
    for entry in Path(str(ROOT)).iterdir():
        if entry.name != "training_presets":
            (root / entry.name).symlink_to(entry)
    place.write(root / "training_presets" / "#.json", {})
    for needed in ("workspace", "cache"):
        (place.folder / needed).mkdir()
    (place.folder / "prompts.toml").write_text(PROMPTS)
    driver = str(Path(__file__).parent / "onetrainer_window.py")
    flags = ["prompts.toml", "--root", str(root), "--steps", "3", "--leco", "max_denoising_steps=4"]
    shown = place.python(driver, *flags)
    assert "shown: Training ..." in shown.stdout, shown.stdout + shown.stderr
    assert "shown: Stopped" in shown.stdout
    assert "finished 3 steps" in shown.stdout
    assert loads("sd1", MODEL_FOLDER, place.lora)
    place.write(root / "training_presets" / "#.json", {"loss_weight_fn": "P2"})
    refused = place.python(driver, *flags)
    assert "shown: Error" in refused.stdout
    assert "loss_weight_fn P2 is not there for LECO" in refused.stderr
