"""LECO in the real OneTrainer: LECO_ONETRAINER=its folder, LECO_ONETRAINER_PYTHON=its Python, pytest -m onetrainer."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Recorder, seeded, tiny_job

from leco_plugin.config.build import load_prompts
from leco_plugin.events import StepDone
from leco_plugin.hookspecs import hookimpl
from leco_plugin.network.lora_file import read_tensors, write_tensors
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

[[targets]]
target = "a circle"
positive = "red"
unconditional = "blue"
neutral = "a circle"
action = "enhance"
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
        own = {
            "workspace_dir": str(self.folder / "workspace"),
            "cache_dir": str(self.folder / "cache"),
            "output_model_destination": str(self.lora),
        }
        self.folder.mkdir(exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps({**CONFIG, **own, **config}))
        (self.folder / "prompts.toml").write_text(prompts)
        command = [str(PYTHON), "-m", "leco_plugin.hosts.onetrainer", "--root", str(ROOT), "--seed", "5"]
        given = ["--config-path", "config.json", "--prompts", "prompts.toml", *flags]
        source = Path(__file__).parents[2]
        environment = {
            **os.environ,
            "PYTHONPATH": f"{source}{os.pathsep}{source / 'converters'}",
            "HF_HUB_OFFLINE": "1",
        }
        return subprocess.run(
            [*command, *given], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

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
    def leco_observers(self, job: object) -> list[Recorder]:
        return [self]


def builtin_losses(folder: Path, prompts: Path, **sections: Any) -> tuple[list[float], Path]:
    """Losses and file of the same run in the built-in host."""
    watching = Watching()
    job = tiny_job(folder, pairs=load_prompts(prompts).pairs, save={"dtype": "float32"}, **sections)
    outcome = run_job(job, manager=plugin_manager([watching], installed=False))
    return [event.loss for event in watching.of(StepDone)], outcome.path


def start_file(folder: Path, prompts: Path) -> Path:
    """A LoRA with random weights on the layers that both hosts train."""
    _, path = builtin_losses(folder, prompts, train={"steps": 1})
    tensors = {
        key: tensor if key.endswith("alpha") else 0.05 * torch.randn(tensor.shape, generator=seeded(number))
        for number, (key, tensor) in enumerate(sorted(read_tensors(path).items()))
    }
    write_tensors(folder / "start.safetensors", tensors, {})
    return folder / "start.safetensors"


@pytest.mark.parametrize(
    ("leco", "sampler"),
    [
        pytest.param({"max_denoising_steps": 10}, "ddim", id="fresh walks"),
        pytest.param({"walk": "pool", "preserve": ["blue"], "max_denoising_steps": 8}, "euler", id="pool"),
    ],
)
def test_the_first_losses_are_those_of_the_builtin_host(place, tmp_path, leco, sampler):
    """Same model, prompts, first weights, seed, sampler and settings: the first 20 losses agree to 1e-4."""
    place.folder.mkdir()
    prompts = place.folder / "prompts.toml"
    prompts.write_text(PROMPTS)
    start = start_file(tmp_path, prompts)
    options = {name: value for name, value in leco.items() if name != "preserve"}
    flags = [f"--leco={name}={value}" for name, value in options.items()]
    flags += [f"--preserve={prompt}" for prompt in leco.get("preserve", ())]
    place.run({"lora_model_name": str(start)}, *flags, "--noise-scheduler", sampler, "--epoch-steps", "20")
    expected, _ = builtin_losses(
        tmp_path,
        prompts,
        train={"steps": 20, "lr": 1e-3, "noise_scheduler": sampler},
        network={"linear": 4, "linear_alpha": 2.0, "network_weights": start},
        leco=leco,
    )
    print("built-in", expected, "OneTrainer", place.losses(), sep="\n")
    assert place.losses() == pytest.approx(expected, rel=1e-4)
    assert len(expected) == 20
