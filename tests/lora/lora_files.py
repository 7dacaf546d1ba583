"""LoRA files for the tests of the commands on them, and those commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import CPU
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from leco_plugin.commands import main as cli
from leco_plugin.families.load import load_model
from leco_plugin.network.layers import transformer_layers

PAIR = {
    "target": "a shape",
    "positive": "a big shape",
    "unconditional": "a small shape",
    "neutral": "a shape",
    "resolution": (64, 64),
}
SLIDER = ({**PAIR, "action": "enhance", "multiplier": 1.0}, {**PAIR, "action": "erase", "multiplier": -1.0})
Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def parts(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file."""
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata() or {}


def changed(path: Path, target: Path, change: Change, **metadata: str) -> Path:
    """A copy of a file with other tensors."""
    tensors, known = parts(path)
    save_file({key: tensor.clone() for key, tensor in change(tensors).items()}, target, {**known, **metadata})
    return target


def alphas_times(factor: float) -> Change:
    """The same LoRA, so much stronger."""
    return lambda tensors: {k: t.float() * factor if k.endswith("alpha") else t for k, t in tensors.items()}


def nothing(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As before the first step of training."""
    return {key: tensor * 0 if "lora_up" in key else tensor for key, tensor in tensors.items()}


def as_diffusers(path: Path, target: Path) -> Path:
    """The file as diffusers would have written it: other keys, no alphas, no metadata."""
    tensors, _ = parts(path)
    other = {}
    for name in transformer_layers(load_model("builtin:tiny", dtype="fp32", device=CPU).module):
        key = f"lora_unet_{name.replace('.', '_')}"
        down, up, alpha = (tensors[f"{key}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        other[f"unet.{name}.lora_A.weight"] = down
        other[f"unet.{name}.lora_B.weight"] = up * (float(alpha) / len(down))
    save_file(other, target)
    return target


def run(*arguments: object) -> int:
    """`leco` with these arguments, in this process."""
    return cli.main([str(argument) for argument in arguments])


def evaluated(folder: Path, *arguments: object) -> dict[str, Any]:
    """What `leco evaluate` writes."""
    assert run("evaluate", *arguments, "--json", folder / "e.json") == 0
    found: dict[str, Any] = json.loads((folder / "e.json").read_text("utf-8"))
    return found
