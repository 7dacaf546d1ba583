"""Small models of flow families, trained by the real ai-toolkit; each schedule beside the one that it samples with.

Usage, in the host's folder: ``python ai_toolkit_stand_in.py ai_toolkit_families.py FOLDER FAMILY ...``, with HF_HOME in
FOLDER: there stand the parts that the host fetches by their names. Writes FOLDER/schedules.json, and the names of all
architectures of the host, FOLDER/architectures.json.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from ai_toolkit_models import FAMILIES, MODELS

_FORMULAS: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "ideogram4": ("get_ideogram4_sigmas", lambda sigmas: sigmas),
    "mageflow": ("build_shifted_sigmas", lambda sigmas: sigmas),
    "boogu_image": ("boogu_time_schedule", lambda clean: 1 - clean),
}
"""Families whose pipelines have a function in the place of a scheduler."""
_SIZES = ([64, 64], [256, 128])
"""(height, width) in pixels of the two prompt pairs."""


class Watched:
    """What one whole picture of the host is drawn with: its scheduler's sigmas, or the times its model is shown."""

    def __init__(self) -> None:
        self.sigmas: list[float] = []

    def of(self, sd: Any, folder: str, steps: int, pixels: tuple[int, int], embeds: Any) -> list[float]:
        """Draw one; the sigmas (N) of its steps."""
        if not hasattr(sd, "generate_single_image"):
            # the host's own pictures of these have lost the shift
            pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
            # SD3's goes on to a last stop beside the picture, which walks leave out
            drawn = steps + (str(sd.arch) == "sd3")
            if drawn > steps:
                # it is where noise ends in training, a little above the picture, and walks end at the picture
                pipeline.scheduler.sigma_min = 0.0
            size = {"height": pixels[0], "width": pixels[1], "num_inference_steps": drawn}
            pipeline(prompt="a shape", guidance_scale=1.0, output_type="latent", **size)
            return [float(sigma) for sigma in pipeline.scheduler.sigmas[:steps]]
        config = import_module("toolkit.config_modules").GenerateImageConfig(
            prompt="",
            height=pixels[0],
            width=pixels[1],
            num_inference_steps=steps,
            guidance_scale=1.0,
            seed=0,
            output_path=os.devnull,
        )
        shown: list[float] = []
        handle = sd.unet.register_forward_pre_hook(
            lambda _, given, named: shown.append(_time(given, named)), with_kwargs=True
        )
        sd.generate_single_image(
            sd.get_generation_pipeline(), config, embeds, embeds, torch.Generator().manual_seed(0), {}
        )
        handle.remove()
        found = self.sigmas or list(dict.fromkeys(shown))
        self.sigmas = []
        return found[:steps]


def _time(given: Any, named: Mapping[str, Any]) -> float:
    """Of a transformer that no scheduler of diffusers stands beside: from 1 to 0."""
    found = next((named[name] for name in ("t", "timestep", "timesteps") if name in named), torch.zeros(1))
    return float(found.flatten()[0])


def watch(found: list[dict[str, Any]], folders: Mapping[str, str]) -> None:
    """Beside every schedule of ours, note the host's."""
    from leco_plugin.hosts.ai_toolkit import model

    watched, own = Watched(), model.HostDenoiser._sigmas
    for scheduler in (diffusers.FlowMatchEulerDiscreteScheduler, diffusers.UniPCMultistepScheduler):
        _watch_steps(scheduler, watched)
    for family, (formula, to_sigmas) in _FORMULAS.items():
        if family in folders:
            _watch_formula(import_module(f"{MODELS}.{family}.src.pipeline"), formula, to_sigmas, watched)
    if "hidream" in folders:
        _watch_steps(import_module(f"{MODELS}.hidream.hidream_model").FlowUniPCMultistepScheduler, watched)

    def both(denoiser: Any, steps: int, shape: tuple[int, int, int]) -> Any:
        ours, pixels = own(denoiser, steps, shape), denoiser._pixels(shape)
        with torch.no_grad():
            hosts = watched.of(denoiser._sd, folders[denoiser.family], steps, pixels, denoiser._texts.each[0])
        doubts = [remark for remark in denoiser.remarks if "samples" in remark]
        found.append({"family": denoiser.family, "ours": ours.tolist(), "host": hosts, "doubts": doubts})
        return ours

    model.HostDenoiser._sigmas = both


def _watch_steps(scheduler: Any, watched: Watched) -> None:
    own = scheduler.step

    def step(self: Any, *given: Any, **named: Any) -> Any:
        watched.sigmas = [float(sigma) for sigma in self.sigmas]
        return own(self, *given, **named)

    scheduler.step = step


def _watch_formula(pipeline: Any, name: str, to_sigmas: Callable[[Tensor], Tensor], watched: Watched) -> None:
    own = getattr(pipeline, name)

    def formula(*given: Any, **named: Any) -> Any:
        found = own(*given, **named)
        watched.sigmas = to_sigmas(found).tolist()
        return found

    setattr(pipeline, name, formula)


def job(name: str, folder: Path, model: dict[str, Any]) -> str:
    """A job file for two small pairs of different size."""
    pairs = [{"target": text, "positive": "red", "neutral": "a shape", "resolution": size}
             for text, size in zip(("a big red shape", "red"), _SIZES, strict=True)]  # fmt: skip
    process = {
        "type": "leco",
        "training_folder": str(folder / "out"),
        "training_seed": 5,
        "device": "cpu",
        "model": {"arch": name, **model},
        "network": {"type": "lora", "linear": 4, "linear_alpha": 4},
        "train": {"steps": 2, "lr": 1e-3, "dtype": "fp32", "noise_scheduler": "flowmatch", "disable_sampling": True},
        "save": {"dtype": "float32"},
        "leco": {"max_denoising_steps": 4, "walk": "pool", "pool_size": 1, "targets": pairs},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"job": "extension", "config": {"name": name, "process": [process]}}))
    return str(path)


def main(folder: Path, names: list[str]) -> None:
    models = {name: FAMILIES[name](folder / name) for name in names}
    jobs = [job(name, folder, model) for name, model in models.items()]
    found: list[dict[str, Any]] = []
    watch(found, {name: str(folder / name) for name in names})
    sys.argv = ["run.py", *(["--recover"] if len(jobs) > 1 else []), *jobs]
    try:
        runpy.run_path("run.py", run_name="__main__")
    finally:
        (folder / "schedules.json").write_text(json.dumps(found))
        known = import_module("toolkit.util.get_model").get_all_models()
        (folder / "architectures.json").write_text(json.dumps(sorted({model.arch for model in known})))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
