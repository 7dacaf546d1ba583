"""What a card makes of a LECO step: steps a second, share of its bf16 ceiling, and peak memory against the estimate.

    python benchmarks/gpu.py                 # under 8 minutes on a card of 24 GB; what does not fit is said
    python benchmarks/gpu.py --small         # the same on a CPU, with models of a few channels, in seconds

Models are the real classes with random weights, made on the device: speed and memory do not depend on them. A step is
that of the pool, erase, batch 1, with its backward pass and optimizer; the ceiling is a large matrix product in the
same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from peft.tuners.lora import LoraLayer
from torch import Generator, Tensor
from torch.utils.flop_counter import FlopCounterMode

import leco_plugin.families
from leco_plugin.config.schema import JobConfig
from leco_plugin.core.walk import Walks
from leco_plugin.engine.concepts import Concept
from leco_plugin.engine.rows import Model, Samplers
from leco_plugin.engine.step import LecoStep, StepSettings
from leco_plugin.engine.walks import make_walks
from leco_plugin.errors import is_out_of_memory
from leco_plugin.estimate.run import Estimator
from leco_plugin.families import meta
from leco_plugin.families.compiled import compile_blocks
from leco_plugin.families.flow.memory import offload
from leco_plugin.network.peft_lora import PeftLora
from leco_plugin.tiny import FLOW_FOLDER

CONFIGS = Path(leco_plugin.families.__path__[0]) / "configs"
SMALL_UNET = {
    "block_out_channels": (64, 64, 64, 64), "layers_per_block": 1, "transformer_layers_per_block": 1, "sample_size": 8,
    "attention_head_dim": 8,
}  # fmt: skip
Z_IMAGE = {
    "dim": 3840, "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "cap_feat_dim": 2560,
    "in_channels": 16, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
}  # fmt: skip
"""Six billion weights."""
CASES = {"SD 1.5": ("sd1", (512,)), "SDXL": ("sdxl", (1024,)), "flow, 6 B": ("flow", (512, 1024))}
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {}, "PEFT's own LoRA": {}, "compiled": {"torch_compile": True}, "fp8": {"fp8_base": True},
    "offloaded": {"offload": "layers"},
}  # fmt: skip


@dataclass
class Card:
    """Where it runs, and what it can do."""

    device: torch.device
    dtype: torch.dtype
    ceiling: float = 0.0
    """FLOP/s of a large matrix product."""

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def timed(self, run: Callable[[], object]) -> float:
        """Seconds of one call."""
        began = time.perf_counter()
        run()
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def measure_ceiling(self) -> None:
        side = 8192 if self.cuda else 512
        one, other = torch.randn(2, side, side, device=self.device, dtype=self.dtype)
        self.ceiling = 2 * side**3 / min(self.timed(lambda: one @ other) for _ in range(10))


def folder_of(kind: str, scratch: Path, *, small: bool) -> Path:
    """A diffusers folder with the configs of a model, and no weights."""
    folder = scratch / kind
    files: dict[str, Any] = {}
    if kind == "flow":
        names = ("model_index.json", "transformer/config.json", "scheduler/scheduler_config.json", "vae/config.json",
                 "text_encoder/config.json")  # fmt: skip
        files = {name: json.loads((FLOW_FOLDER / name).read_text("utf-8")) for name in names}
        files["transformer/config.json"] |= {} if small else Z_IMAGE
        # the scale of the real VAE
        files["vae/config.json"]["block_out_channels"] = [8, 16, 32, 32]
    else:
        parts = json.loads((CONFIGS / f"{kind}.json").read_text("utf-8"))
        unet = parts["unet"]
        if small:
            unet = {**unet, **SMALL_UNET}
            unet["block_out_channels"] = unet["block_out_channels"][: len(unet["down_block_types"])]
        files = {"unet/config.json": unet, "scheduler/scheduler_config.json": parts["scheduler"]}
        index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
        kinds = ("CLIPTextModel", "CLIPTextModelWithProjection")
        for name, cls, config in zip(("text_encoder", "text_encoder_2"), kinds, parts["text_encoders"], strict=False):
            index[name], files[f"{name}/config.json"] = ["transformers", cls], config
        files["model_index.json"] = index
    for name, tree in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(tree), "utf-8")
    return folder


def job_of(folder: Path, pixels: int, memory: dict[str, Any], card: Card) -> JobConfig:
    """What a user would write."""
    return JobConfig.model_validate({
        "name": "measured", "model": {"name_or_path": str(folder)}, "memory": memory,
        "network": {"linear": 8, "linear_alpha": 4.0},
        "train": {"steps": 100, "dtype": "bf16" if card.cuda else "fp32", "gradient_checkpointing": True},
        "leco": {"max_denoising_steps": 20, "pool_size": 2},
        "pairs": ({"target": "a", "positive": "a", "resolution": (pixels, pixels)},),
    })  # fmt: skip


@contextmanager
def made_on(card: Card) -> Iterator[None]:
    """Block in which what is otherwise traced without numbers is really made, on the card and in its precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(card.dtype)
    try:
        with mock.patch.multiple(meta, _META=card.device, _CPU=card.device):
            yield
    finally:
        torch.set_default_dtype(before)


def build(job: JobConfig, variant: str, card: Card) -> tuple[LecoStep, Walks, PeftLora]:
    """The step of a job over a model of random weights."""
    with made_on(card):
        model = meta.meta_model(job.model, job.train.dtype, job.memory)
    denoiser: Any = model.denoiser
    if job.memory.offload:
        denoiser.module.to("cpu")
        offload(denoiser.module, job.memory, card.device)
    if job.memory.torch_compile:
        compile_blocks(denoiser.module, "inductor" if card.cuda else "eager")
    model.checkpoint()
    for tensor in vars(model.text).values() if hasattr(model.text, "text") else model.text.each[0].values():  # type: ignore[attr-defined]
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            tensor.normal_()
    network = PeftLora(denoiser.module, rank=8, alpha=4.0, seed=0)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(card.device)
    if variant.startswith("PEFT"):
        for layer in denoiser.module.modules():
            if isinstance(layer, LoraLayer):
                layer.__class__ = type(layer).__base__
    # one prompt stands for all: what is asked is what costs
    concept = Concept(job.pairs[0], target=0, positive=0, unconditional=0, neutral=0)
    step = LecoStep(
        Model(denoiser, network, Apart(model.text)), [concept], Samplers(denoiser, "ddim", 20), StepSettings()
    )
    return step, make_walks(job.leco, step, job.pairs, Generator().manual_seed(0)), network


@dataclass(frozen=True)
class Apart:
    """A table with the same text under every number."""

    table: Any

    def rows(self, prompts: Sequence[int]) -> Any:
        return self.table.rows([0] * len(prompts))


def measured(job: JobConfig, variant: str, card: Card, seconds: float) -> list[str]:
    """Cells of the table."""
    if card.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step, walks, network = build(job, variant, card)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-9, fused=card.cuda)

    def one() -> None:
        step.run(walks, torch.autograd.backward)
        optimizer.step()
        optimizer.zero_grad()

    first = card.timed(one)
    card.timed(one)
    times: list[float] = []
    while sum(times) < seconds and len(times) < 50:
        times.append(card.timed(one))
    with FlopCounterMode(display=False) as counter:
        one()
    share = counter.get_total_flops() / median(times) / card.ceiling
    peak = torch.cuda.max_memory_reserved() / 2**30 if card.cuda else 0.0
    estimate = Estimator().estimate(job).peak / 2**30
    held = f"{peak:.1f} / {estimate:.1f}" if card.cuda else f"- / {estimate:.1f}"
    return [f"{1 / median(times):.2f}", f"{share:.0%}" if variant != "compiled" else "-", held, f"{first:.1f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="models of a few channels, 64 pixels, on the CPU")
    parser.add_argument("--seconds", type=float, default=6.0, help="of steps, for each line")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args(arguments)
    card = Card(torch.device("cpu"), torch.float32) if options.small else Card(torch.device("cuda"), torch.bfloat16)
    card.measure_ceiling()
    name = torch.cuda.get_device_name() if card.cuda else "CPU"
    print(f"{name}, torch {torch.__version__}, ceiling {card.ceiling / 1e12:.3g} TFLOP/s\n")
    print("| model | pixels | variant | steps/s | of the ceiling | GiB at most / estimated | first step, s |")
    print("|---" * 7 + "|")
    with tempfile.TemporaryDirectory() as scratch:
        for title in options.cases:
            kind, sides = CASES[title]
            folder = folder_of(kind, Path(scratch), small=options.small)
            for pixels in (64,) if options.small else sides:
                for variant in options.variants:
                    if variant == "offloaded" and (kind != "flow" or not card.cuda):
                        continue
                    try:
                        cells = measured(
                            job_of(folder, pixels, VARIANTS[variant], card), variant, card, options.seconds
                        )
                    except RuntimeError as error:
                        if not is_out_of_memory(error):
                            raise
                        cells = ["out of memory", "", "", ""]
                    print(f"| {title} | {pixels} | {variant} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
