"""What a step sends against what it computes, for models of full size in several processes; no weights, no GPU.

Operations are the estimate's own (`leco check`): the real classes, traced without numbers. The gradients of a LoRA are
one all-reduce of float32: a ring sends 2 (N - 1) / N of them from each device. Prints the tables of docs/scale.md.
"""

from __future__ import annotations

import inspect
import json
import logging
import tempfile
import warnings
from pathlib import Path

import diffusers
from estimate import configs_of

from leco_plugin.config.families import FLOW_FAMILIES
from leco_plugin.config.schema import JobConfig
from leco_plugin.estimate.lines import _CALL_SECONDS, _SPEEDS
from leco_plugin.estimate.run import Estimator
from leco_plugin.estimate.trace import Traced

MODELS = {"Stable Diffusion 1.5": ("sd1", 512), "SDXL": ("sdxl", 1024), "Z-Image (6 B)": ("z_image", 1024),
          "Qwen-Image (20 B)": ("qwen_image", 1024)}  # fmt: skip
RANKS = (4, 16, 64)
DEVICES = (2, 8, 16, 64)
LINKS = {"1 Gbit/s Ethernet": 0.11e9, "10 Gbit/s Ethernet": 1.1e9, "PCIe 4, 16 lanes": 20e9, "NVLink": 200e9}
"""Bytes a second that one device sends, about nine tenths of what the name says."""
CARD = "an H100"
STEPS, CARDS = 500, 8
"""Of each of a thousand LoRAs, and how many of them are trained at a time."""
MEETING = 4e-3
"""Seconds that processes need to agree; 100 meetings of two took 0.36 to 0.53 s on two cores with a load of 8."""


def flow_folder(family: str, folder: Path) -> Path:
    """A diffusers folder with the transformer's published sizes, which are its class's defaults."""
    kind = FLOW_FAMILIES[family]
    signature = inspect.signature(getattr(diffusers, kind.transformer).__init__)
    config = {name: one.default for name, one in signature.parameters.items() if name != "self"}
    files = {
        "model_index.json": {"_class_name": kind.pipeline, "transformer": ["diffusers", kind.transformer]},
        "transformer/config.json": {"_class_name": kind.transformer, **config},
        "scheduler/scheduler_config.json": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 6.0},
        "vae/config.json": {"_class_name": "AutoencoderKL", "block_out_channels": [1, 1, 1, 1]},
    }
    for name, tree in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(tree), "utf-8")
    return folder


def folder_of(name: str, folder: Path) -> Path:
    """The config files of a model of full size."""
    return flow_folder(name, folder) if name in FLOW_FAMILIES else configs_of(name, folder)


def measured(name: str, side: int, folder: Path) -> tuple[dict[int, int], float, float]:
    """Trained numbers by rank, and (operations, calls of the model) of a step in one process."""
    model = str(folder_of(name, folder))
    pairs = ({"target": "a", "positive": "b", "unconditional": "c", "neutral": "d", "resolution": (side, side)},)
    trained = {}
    for rank in RANKS:
        values = {"name": "scale", "model": {"name_or_path": model}, "network": {"linear": rank}, "pairs": pairs}
        job = JobConfig.model_validate({**values, "train": {"dtype": "bf16", "gradient_checkpointing": True}})
        trained[rank] = Traced(job).trained
        if rank == RANKS[0]:
            found = Estimator().estimate(job)
    return trained, found.flops, found.steps.calls


def main() -> None:
    """Print both tables."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    speed = _SPEEDS[CARD][0] * 1e12
    sizes, shares = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for title, (name, side) in MODELS.items():
            trained, flops, calls = measured(name, side, Path(scratch) / name)
            seconds = max(flops / speed, calls * _CALL_SECONDS)
            hours = seconds * STEPS * 1000 / CARDS / 3600
            megabytes = [f"{4 * count / 1e6:.1f}" for count in trained.values()]
            sizes.append(
                f"| {title}, {side} | {' | '.join(megabytes)} | {flops / 1e12:.1f} | {seconds:.2f} | {hours:.2g} |"
            )
            for link, rate in LINKS.items():
                cells = []
                for devices in DEVICES:
                    sent = 2 * (devices - 1) / devices * 4 * trained[16]
                    cells.append(f"{seconds / (seconds + MEETING + sent / rate):.0%}")
                shares.append(f"| {title} | {link} | {' | '.join(cells)} |")
    ranks = " | ".join(f"MB, rank {rank}" for rank in RANKS)
    head = f"| model, pixels | {ranks} | TFLOP a step | seconds on {CARD} | hours for 1000 LoRAs |"
    print(head, "|" + "---|" * 7, *sizes, sep="\n")
    print(f"\n| model | link | {' | '.join(map(str, DEVICES))} devices |", "|" + "---|" * 6, *shares, sep="\n")


if __name__ == "__main__":
    main()
