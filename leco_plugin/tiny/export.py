"""Write a made model as the shipped folder with other weights, which old and new versions of the libraries read."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


def export(parts: Mapping[str, nn.Module], shipped: Path, folder: Path) -> None:
    """Write the weights of ``parts`` to ``folder`` in float16, beside the configs and tokenizers of ``shipped``."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(shipped, folder)
    for part, model in parts.items():
        (file,) = (shipped / part).glob("*.safetensors")
        with safe_open(file, "pt") as opened:
            names = [*opened.keys()]
        # transformers 5 drops a part of the names that every version reads
        prefix = "text_model." if names[0].startswith("text_model.") else ""
        weights = {prefix + name.removeprefix(prefix): weight for name, weight in model.state_dict().items()}
        # contiguous: the VAE trains in channels_last
        halves = {name: weights[name].to(torch.float16).contiguous() for name in names}
        save_file(halves, folder / part / file.name, metadata={"format": "pt"})
