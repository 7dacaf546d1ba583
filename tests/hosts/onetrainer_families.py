"""Flow families trained by the real OneTrainer; each schedule beside the one that the host samples with.

Usage, with the host's Python: ``python onetrainer_families.py ROOT FOLDER TYPE ...``; each type has a
model of that name in FOLDER. Writes FOLDER/schedules.json.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import diffusers
import torch

from leco_plugin.errors import LecoError
from leco_plugin.hosts.onetrainer import denoiser, launcher

PROMPTS = """
[[targets]]
target = "a big red shape"
positive = "red"
neutral = "a shape"
resolution = 64

[[targets]]
target = "red"
positive = "red"
neutral = "a shape"
resolution = [256, 128]
"""
PARTS = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4", "vae")


def watch(found: list[dict[str, Any]]) -> None:
    """Beside every schedule of ours, note what the host's sampler sets on its scheduler for a picture of that size.

    For as many steps and for one more, each as it is and with an end at the picture.
    """
    own, seen = denoiser.HostDenoiser._sigmas, []
    for scheduler in (diffusers.FlowMatchEulerDiscreteScheduler, diffusers.DPMSolverMultistepScheduler):
        _watch_timesteps(scheduler, seen)

    def both(model: Any, steps: int, shape: tuple[int, int, int]) -> Any:
        ours, pixels, hosts = own(model, steps, shape), model._pixels_per_latent, []
        for number in (steps, steps + 1):
            # some draw with more channels than a small model has, and none is told a format to save in
            with suppress(RuntimeError, ValueError), torch.no_grad():
                model._draw(shape[1] * pixels, shape[2] * pixels, number)
            hosts.append(list(seen))
        model.setup.setup_train_device(model.model, model.config)
        found.append({"family": model.family, "ours": ours.tolist(), "host": hosts, "doubts": model.remarks})
        return ours

    denoiser.HostDenoiser._sigmas = both


def _watch_timesteps(scheduler: Any, seen: list[list[float]]) -> None:
    own = scheduler.set_timesteps

    def set_timesteps(self: Any, *given: Any, **named: Any) -> None:
        own(self, *given, **named)
        as_they_are = self.sigmas.tolist()
        if ends := getattr(self, "sigma_min", 0.0):
            # its last stop is where noise ends in training, a little above the picture; pipelines and walks end there
            self.sigma_min = 0.0
            own(self, *given, **named)
            to_the_picture = self.sigmas.tolist()
            self.sigma_min = ends
            own(self, *given, **named)
        seen[:] = as_they_are, to_the_picture if ends else as_they_are

    scheduler.set_timesteps = set_timesteps


def config(name: str, folder: Path) -> dict[str, Any]:
    """The host's config for one family."""
    return {
        "training_method": "LORA",
        "model_type": name,
        "base_model_name": str(folder / name),
        "output_model_destination": str(folder / f"{name}.safetensors"),
        "output_model_format": "COMFY_LORA" if name in ("FLUX_2", "KREA_2", "QWEN", "Z_IMAGE") else "DIFFUSERS_LORA",
        "workspace_dir": str(folder / "workspace" / name),
        "cache_dir": str(folder / "cache"),
        "train_device": "cpu",
        "temp_device": "cpu",
        "train_dtype": "FLOAT_32",
        "output_dtype": "FLOAT_32",
        "tensorboard": False,
        "samples": [],
        **{part: {"weight_dtype": "FLOAT_32"} for part in PARTS},
    }


def main(root: str, folder: Path, names: list[str]) -> None:
    found: list[dict[str, Any]] = []
    watch(found)
    (folder / "prompts.toml").write_text(PROMPTS)
    for name in names:
        (folder / f"{name}.json").write_text(json.dumps(config(name, folder)))
        files = [str(folder / f"{name}.json"), str(folder / "prompts.toml")]
        options = ["max_denoising_steps=4", "walk=pool", "pool_size=1"]
        try:
            launcher.run(["--root", root, *files, "--steps", "2", *(f"--leco={option}" for option in options)])
        except LecoError as error:
            found.append({"family": name.lower(), "error": str(error)})
    (folder / "schedules.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
