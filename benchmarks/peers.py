"""The published LECO trainers and ours on the built-in model, at equal steps and at equal CPU time, in one run.

    python benchmarks/peers.py --python VENV/bin/python --leco DIR --sliders DIR --sd-scripts DIR [--output FOLDER]

Folders are checkouts of p1atdev/LECO, rohitgandikota/sliders and an sd-scripts that has train_leco.py; ``--python`` is
an interpreter with the packages that they need. Each runs as it is, in a process of its own, with stand-ins for what
only a GPU has, for the tokenizer that it would download, and for the sizes of the UNet that it takes for granted.
``sd-scripts, walk without gradient`` is its control: the same code, but no gradient flows through the walk.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

N, BATCH, RANK = 20, 4, 4
RATES = {"erase": (6e-4, 0.8), "slider": (1e-3, 1.0)}
"""Learning rate and edit strength."""
ERASED = ("red", "a red shape", "a red circle")
SLIDE = {"target": "a shape", "neutral": "a shape"}
ENDS = ("a big shape", "a small shape")
CONTROL = "sd-scripts, walk without gradient"


# inside a trainer's own process: nothing of leco_plugin but in ours


def prompts_of(kind: str, strength: float, *, sides: tuple[int, ...]) -> list[dict[str, Any]]:
    """The pairs, as all trainers write them; those at multiplier -1 only for whom knows them."""
    common = {"resolution": 64, "batch_size": BATCH, "guidance_scale": strength}
    if kind == "erase":
        return [{"target": p, "positive": p, "unconditional": "", "neutral": "", **common} for p in ERASED]
    found = []
    for side in sides:
        for (positive, unconditional), action in ((ENDS, "enhance"), (ENDS[::-1], "erase")):
            turned = action if side > 0 else {"enhance": "erase", "erase": "enhance"}[action]
            pair = {**SLIDE, "positive": positive, "unconditional": unconditional, "action": turned, **common}
            found.append(pair if sides == (1,) else {**pair, "multiplier": float(side)})
    return found


class Rows:
    """Counts what a UNet is asked, and the CPU seconds since it was asked first."""

    def __init__(self, unet: Any) -> None:
        self.rows, self._began = 0, 0.0
        forward = unet.forward

        @wraps(forward)
        def counted(module: Any, sample: Any, *args: Any, **more: Any) -> Any:
            self._began = self._began or time.process_time()
            self.rows += len(sample)
            return forward(module, sample, *args, **more)

        unet.forward = counted

    @property
    def seconds(self) -> float:
        return time.process_time() - self._began


def import_from(folder: Path, *names: str) -> list[ModuleType]:
    """Modules of a checkout."""
    sys.path.insert(0, str(folder))
    return [importlib.import_module(name) for name in names]


def on_cpu(unet: Any) -> None:
    """Stand-ins for what needs a GPU or an account."""
    sys.modules["wandb"] = ModuleType("wandb")
    unet.enable_xformers_memory_efficient_attention = lambda module: None


def train_leco(spec: SimpleNamespace, *, sliders: bool) -> Path:
    """LECO, and Concept Sliders, which grew out of it."""
    import torch
    from diffusers import UNet2DConditionModel

    on_cpu(UNet2DConditionModel)
    place = Path(spec.checkout, "trainscripts/textsliders") if sliders else Path(spec.checkout)
    models, trainer, configs, prompts = import_from(place, "model_util", "train_lora", "config_util", "prompt_util")
    layers = json.loads(Path(spec.model, "text_encoder/config.json").read_text("utf-8"))["num_hidden_layers"]
    models.TOKENIZER_V1_MODEL_NAME = spec.model
    # both count the layers of the text encoder down from 12
    models.load_diffusers_model = partial(models.load_diffusers_model, clip_skip=13 - layers)
    config = configs.RootConfig(
        prompts_file="", pretrained_model={"name_or_path": spec.model},
        network={"type": "lierla", "rank": RANK, "alpha": float(RANK), "training_method": "full"},
        train={"precision": "float32", "iterations": spec.steps, "lr": spec.lr, "max_denoising_steps": N,
               "noise_scheduler": "ddim", "optimizer": "adamw", "lr_scheduler": "constant"},
        save={"name": "lora", "path": spec.output, "per_steps": 10**6}, logging={}, other={},
    )  # fmt: skip
    pairs = [prompts.PromptSettings(**pair) for pair in prompts_of(spec.kind, spec.strength, sides=(1,))]
    spec.counted = Rows(UNet2DConditionModel)
    if not sliders:
        trainer.DEVICE_CUDA = torch.device("cpu")
        trainer.train(config, pairs)
        return Path(spec.output, "lora_last.safetensors")
    trainer.train(config, pairs, torch.device("cpu"))
    from safetensors.torch import save_file

    written = Path(spec.output, "lora_last.pt")
    tensors = torch.load(written, weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, written.with_suffix(".safetensors"))
    return written.with_suffix(".safetensors")


def train_sd_scripts(spec: SimpleNamespace, *, control: bool) -> Path:
    """Through its command line."""
    import torch

    unets, strategy = import_from(Path(spec.checkout), "library.original_unet", "library.strategy_sd")
    unet = json.loads(Path(spec.model, "unet/config.json").read_text("utf-8"))
    widths, deep = tuple(unet["block_out_channels"]), unet["layers_per_block"]
    sizes = {
        "BLOCK_OUT_CHANNELS": widths, "TIMESTEP_INPUT_DIM": widths[0], "TIME_EMBED_DIM": 4 * widths[0],
        "LAYERS_PER_BLOCK": deep, "LAYERS_PER_BLOCK_UP": deep + 1, "NORM_GROUPS": unet["norm_num_groups"],
        "TRANSFORMER_NORM_NUM_GROUPS": unet["norm_num_groups"], "DOWN_BLOCK_TYPES": unet["down_block_types"],
        "UP_BLOCK_TYPES": unet["up_block_types"],
    }  # fmt: skip
    vars(unets).update(sizes)
    strategy.TOKENIZER_ID = f"{spec.model}/tokenizer"
    trainer = importlib.import_module("train_leco")
    if control:
        trainer.diffusion = torch.no_grad()(trainer.diffusion)
    prompts = Path(spec.output, "prompts.toml")
    pairs = prompts_of(spec.kind, spec.strength, sides=(1, -1))
    tables = ["".join(f"{key} = {json.dumps(value)}\n" for key, value in pair.items()) for pair in pairs]
    prompts.write_text("".join(f"[[prompts]]\n{table}" for table in tables), "utf-8")
    options = {
        "pretrained_model_name_or_path": spec.model, "prompts_file": prompts, "output_dir": spec.output,
        "output_name": "lora", "network_dim": RANK, "network_alpha": RANK, "learning_rate": spec.lr,
        "max_train_steps": spec.steps, "optimizer_type": "AdamW", "lr_scheduler": "constant", "seed": spec.seed,
        "mixed_precision": "no", "save_precision": "float", "max_denoising_steps": N,
    }  # fmt: skip
    flags = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    sys.argv = ["train_leco.py", *flags, "--sdpa"]
    spec.counted = Rows(unets.UNet2DConditionModel)
    trainer.main()
    return Path(spec.output, "lora.safetensors")


def train_ours(spec: SimpleNamespace) -> Path:
    """A job of the built-in host, at its own defaults."""
    from diffusers import UNet2DConditionModel

    from leco_plugin.config.schema import JobConfig
    from leco_plugin.hosts.builtin.process import LecoProcess
    from leco_plugin.plugins import plugin_manager

    job = JobConfig.model_validate({
        "name": "lora", "training_folder": spec.output, "device": "cpu", "training_seed": spec.seed,
        "model": {"name_or_path": spec.model}, "network": {"linear": RANK, "linear_alpha": float(RANK)},
        "train": {"steps": spec.steps, "lr": spec.lr, "dtype": "fp32"}, "leco": {"max_denoising_steps": N},
        "save": {"dtype": "float32"},
        "pairs": tuple({**p, "resolution": (64, 64)} for p in prompts_of(spec.kind, spec.strength, sides=(1, -1))),
    })  # fmt: skip
    spec.counted = Rows(UNet2DConditionModel)
    return LecoProcess(job, plugin_manager(installed=False).hook).run().path


TRAINERS: dict[str, tuple[str, Callable[[Any], Path]]] = {
    "ours": ("", train_ours),
    "LECO": ("leco", partial(train_leco, sliders=False)),
    "Concept Sliders": ("sliders", partial(train_leco, sliders=True)),
    "sd-scripts": ("sd_scripts", partial(train_sd_scripts, control=False)),
    CONTROL: ("sd_scripts", partial(train_sd_scripts, control=True)),
}


def inside(text: str) -> None:
    """Train as the JSON ``text`` says, and leave beside the LoRA what it took."""
    import torch

    spec = SimpleNamespace(**json.loads(text))
    torch.set_num_threads(1)
    torch.manual_seed(spec.seed)
    path = TRAINERS[spec.name][1](spec)
    found = {"path": str(path), "seconds": spec.counted.seconds, "rows": spec.counted.rows, "steps": spec.steps}
    Path(spec.output, "found.json").write_text(json.dumps(found), "utf-8")


# outside


def trained(options: argparse.Namespace, name: str, kind: str, steps: int, label: str) -> dict[str, Any]:
    """Train in a process of its own; what it took."""
    from leco_plugin.tiny import MODEL_FOLDER

    lr, strength = RATES[kind]
    output = options.output / f"{kind}, {label}" / name
    output.mkdir(parents=True, exist_ok=True)
    key = TRAINERS[name][0]
    spec = {
        "name": name, "kind": kind, "steps": steps, "lr": lr, "strength": strength, "seed": options.seed,
        "checkout": str(getattr(options, key)) if key else "", "model": str(MODEL_FOLDER), "output": str(output),
    }  # fmt: skip
    # a peer finds its own packages alone
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if key:
        environment.pop("PYTHONPATH", None)
    with (output / "log.txt").open("w", encoding="utf-8") as log:
        command = [options.python if key else sys.executable, __file__, "--inside", json.dumps(spec)]
        subprocess.run(command, check=True, stdout=log, stderr=log, env=environment, cwd=spec["checkout"] or None)
    found: dict[str, Any] = json.loads((output / "found.json").read_text("utf-8"))
    return found


def judged(kind: str, found: dict[str, Any], count: int, sheet: list[Any]) -> list[str]:
    """Cells of the table: goal reached on held-out walks, and what the reader sees in pictures, added to ``sheet``."""
    import torch

    from leco_plugin.config.schema import PromptPair
    from leco_plugin.demo.measure import Studio, erase_test, figures, read_all, slider_test
    from leco_plugin.engine.measure import Bench, Course
    from leco_plugin.families.load import load_model
    from leco_plugin.network.loaded import LoadedLora
    from leco_plugin.network.lora_read import LoraFile

    lora, strength = Path(found["path"]), RATES[kind][1]
    denoiser = load_model("builtin:tiny", dtype="fp32", device=torch.device("cpu"))
    network = LoadedLora(denoiser.module, LoraFile.read(lora))
    pairs = [PromptPair(**{**p, "resolution": (64, 64)}) for p in prompts_of(kind, strength, sides=(1, -1))]
    measured = Bench(denoiser, network, pairs, [], Course("ddim", N, 3.0)).measure([1.0, -1.0], own_side=True)
    sides = (1.0,) if kind == "erase" else (1.0, -1.0)
    cells = [" / ".join(f"{measured.reached(side) or 0:.0%}" for side in sides)]
    asked = erase_test(7) if kind == "erase" else slider_test(7)[:count]
    if kind == "erase":
        red = [one for one in asked if one.colour == "red"][: count // 3]
        asked = red + [one for one in asked[:: len(asked) // count] if one.colour != "red"][: count - len(red)]
    studio = Studio("builtin:tiny", lora, [one.prompt for one in asked])
    for side in (1.0,) if kind == "erase" else (-1.0, 1.0):
        drawn = studio.pictures(asked, side)
        sheet += drawn[:4] + drawn[-4:] if kind == "erase" else drawn[:4]
        seen = read_all(drawn)
        if kind == "slider":
            cells.append(f"{figures(asked, seen).mean_area:.0f}")
            continue
        parts = (slice(0, len(red)), slice(len(red), None))
        cells += [f"{figures(asked[part], seen[part]).colour_right:.0%}" for part in parts]
    return cells


def compared(options: argparse.Namespace, kind: str, label: str, steps: dict[str, int]) -> dict[str, float]:
    """Print the table of one kind and write its pictures; CPU seconds of a step of each."""
    from PIL import Image

    seen = ["red left", "others right"] if kind == "erase" else ["area at -1", "at +1"]
    print(f"\n{kind}, {label}\n\n| | steps | CPU s | s a step | rows | goal reached | {' | '.join(seen)} |", flush=True)
    print("|---" * 8 + "|")
    paces, rows = {}, []
    for name, count in steps.items():
        try:
            found = trained(options, name, kind, count, label)
        except subprocess.CalledProcessError:
            print(f"| {name} | failed, see its log.txt | | | | | | |", flush=True)
            continue
        rows.append([])
        cells = judged(kind, found, options.pictures, rows[-1])
        paces[name] = found["seconds"] / count
        figures = [f"{count}", f"{found['seconds']:.1f}", f"{paces[name]:.2f}", f"{found['rows']}", *cells]
        print(f"| {name} | {' | '.join(figures)} |", flush=True)
    sheet = Image.new("RGB", (64 * len(rows[0]), 64 * len(rows)))
    for y, pictures in enumerate(rows):
        for x, picture in enumerate(pictures):
            sheet.paste(picture, (64 * x, 64 * y))
    sheet.save(options.output / f"{kind}, {label}.png")
    return paces


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--python", help="interpreter of the peers")
    for key in ("leco", "sliders", "sd-scripts"):
        parser.add_argument(f"--{key}", type=Path, help="its checkout; left out where absent")
    parser.add_argument("--steps", type=int, default=20, help="of every trainer, in the first comparison")
    parser.add_argument("--seconds", type=float, default=45.0, help="CPU time of every trainer, in the second")
    parser.add_argument("--kinds", nargs="+", default=["erase", "slider"], choices=list(RATES))
    parser.add_argument("--pictures", type=int, default=30, help="that the reader looks at, for each LoRA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("peers"))
    options = parser.parse_args()
    if options.inside:
        inside(options.inside)
        return
    options.output = options.output.resolve()
    names = [name for name, (key, _) in TRAINERS.items() if not key or getattr(options, key)]
    for kind in options.kinds:
        paces = compared(options, kind, f"{options.steps} steps", dict.fromkeys(names, options.steps))
        fitting = {name: max(1, round(options.seconds / pace)) for name, pace in paces.items()}
        compared(options, kind, f"{options.seconds:g} s", fitting)


if __name__ == "__main__":
    main()
