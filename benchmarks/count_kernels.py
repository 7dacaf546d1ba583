"""Kernels of one call of a model in bf16, counted on the CPU: bare, with PEFT's own LoRA layers, and with ours.

    python benchmarks/count_kernels.py [--model builtin:tiny] [--rows 6]

Counts the operations that torch dispatches and that compute or move something; views and allocations are none.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.utils._python_dispatch import TorchDispatchMode

from leco_plugin.contracts import Denoiser
from leco_plugin.families.load import load_model
from leco_plugin.network.layers import transformer_layers
from leco_plugin.network.peft_lora import PeftLora

RANK = 4
NO_KERNEL = {
    "_unsafe_view",
    "detach",
    "alias",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "lift_fresh",
    "is_same_size",
}


class Counting(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if not func.is_view and name not in NO_KERNEL and not name.startswith("sym_"):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def counted(call: Callable[[], object]) -> Counter[str]:
    """What ``call`` dispatches."""
    with Counting() as mode:
        call()
    return mode.counts


def casts(counts: Counter[str]) -> int:
    """How many of them change nothing but a precision."""
    return counts["_to_copy"] + counts["copy_"]


def call(denoiser: Denoiser, rows: int) -> Callable[[], torch.Tensor]:
    """A call of the model with as many rows."""
    shape = denoiser.latent_shape(64, 64)
    latents = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))
    text = denoiser.encode(["a red circle"]).rows([0] * rows)
    sizes = torch.zeros(rows, 6)
    return lambda: denoiser.predict(latents, torch.full((rows,), 500), text, sizes)


def bare(model: str, rows: int) -> Counter[str]:
    """Without a LoRA."""
    with torch.no_grad():
        return counted(call(load_bf16(model), rows))


def with_peft(model: str, multipliers: Sequence[float]) -> Counter[str]:
    """With PEFT's layers, whose scaling is set to one number a row, as it takes it."""
    denoiser = load_bf16(model)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=transformer_layers(denoiser.module))
    inject_adapter_in_model(config, denoiser.module, adapter_name="peft")
    for layer in denoiser.module.modules():
        if hasattr(layer, "scaling"):
            wide = hasattr(layer.get_base_layer(), "kernel_size")
            layer.scaling["peft"] = torch.tensor(multipliers).reshape(-1, *[1] * (3 if wide else 2))
            layer.lora_A.float()
            layer.lora_B.float()
    with torch.no_grad():
        return counted(call(denoiser, len(multipliers)))


def with_lean(model: str, multipliers: Sequence[float], *, gradient: bool = False) -> Counter[str]:
    """With ours, all that a call needs counted: also what narrows the weights."""
    denoiser = load_bf16(model)
    network = PeftLora(denoiser.module, rank=RANK, alpha=RANK, seed=0)
    asked = call(denoiser, len(multipliers))

    def with_strength() -> None:
        with nullcontext() if gradient else torch.no_grad(), network.multiplier(multipliers):
            asked()

    return counted(with_strength)


def load_bf16(model: str) -> Denoiser:
    """The model in bf16 on the CPU."""
    return load_model(model, dtype="bf16", device=torch.device("cpu"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--rows", type=int, default=6)
    options = parser.parse_args()
    rows = options.rows
    acting = max(1, rows // 3)
    teacher_and_walk = [0.0] * (rows - acting) + [1.0] * acting
    two_strengths = [0.0] * (rows - acting) + [float(-1) ** n for n in range(acting)]
    base = bare(options.model, rows)
    table = {
        "bare model": base,
        "PEFT, a multiplier a row": with_peft(options.model, teacher_and_walk),
        "ours, rows at 0 and at 1": with_lean(options.model, teacher_and_walk),
        "ours, rows at 0, 1 and -1": with_lean(options.model, two_strengths),
        "ours, all rows at 0": with_lean(options.model, [0.0] * rows),
        "ours, with gradient": with_lean(options.model, [1.0] * rows, gradient=True),
    }
    for name, counts in table.items():
        total = counts.total()
        print(f"{name:28} {total:6} kernels, {casts(counts):4} of them casts   {total / base.total():.2f} x")


if __name__ == "__main__":
    main()
