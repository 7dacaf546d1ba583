"""Steps per second, memory and UNet calls of a LECO step, against the published loops, in one interleaved run.

    python benchmarks/speed.py tiny sd15            # CPU
    python benchmarks/speed.py sd15 --pixels 512 --dtype bf16 --device cuda
    python benchmarks/speed.py sdxl --pixels 1024 --dtype bf16 --device cuda --checkpointing

The baselines are straight lines written from what those trainers do in a step:
`sd-scripts` walks with gradients on, so that backward runs through the whole chain, and computes an unconditional
row with every prediction, also at guidance 1; `LECO` does the latter only. Weights are random but for `tiny`:
speed does not depend on them. The last column holds the arithmetic of a pool step against what this machine does
in a bare matrix product, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from statistics import fmean

import psutil
import torch
from diffusers import UNet2DConditionModel
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.core.walk import FreshWalks, Walk, guided, walk_to_stops
from leco_plugin.engine.concepts import Concept, Untouched
from leco_plugin.engine.rows import Model, Samplers
from leco_plugin.engine.step import LecoStep, StepSettings
from leco_plugin.engine.walks import make_walks
from leco_plugin.families.load import load_model
from leco_plugin.families.sd import SDDenoiser
from leco_plugin.families.sdxl import SDXLDenoiser
from leco_plugin.families.text import TensorTable
from leco_plugin.network.peft_lora import PeftLora

SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "steps_offset": 1, "set_alpha_to_one": False, "prediction_type": "epsilon", "timestep_spacing": "leading",
}  # fmt: skip
FULL_SIZE = {"sd15": "sd1", "sdxl": "sdxl"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Meter:
    """What a method cost so far."""

    seconds: list[float] = field(default_factory=list)
    rows: int = 0
    calls: int = 0
    peak_bytes: int = 0


class Counting:
    """Mixed into a denoiser: tells a meter of every call and row."""

    meter: Meter | None = None

    def predict(self, latents: Tensor, timesteps: Tensor, text: object, sizes: Tensor) -> Tensor:
        if self.meter is not None:
            self.meter.rows += len(latents)
            self.meter.calls += 1
        return super().predict(latents, timesteps, text, sizes)  # type: ignore[misc, no-any-return]


class CountingSD(Counting, SDDenoiser):
    """Stable Diffusion 1.x."""


class CountingSDXL(Counting, SDXLDenoiser):
    """SDXL."""


@dataclass
class Bench:
    """One model with a LoRA on it, and one pair to train."""

    denoiser: CountingSD | CountingSDXL
    network: PeftLora
    table: TensorTable
    pair: PromptPair
    steps: int
    guidance: float = 3.0

    @property
    def concept(self) -> Concept:
        """The pair over a table of prompts: '', target or positive, negative, and one that shall not change."""
        if self.pair.target == self.pair.positive:
            return Concept(self.pair, target=1, positive=1, unconditional=0, neutral=0)
        return Concept(self.pair, target=0, positive=1, unconditional=2, neutral=0)

    def walker(self) -> LecoStep:
        """Our step over this model."""
        samplers = Samplers(self.denoiser, "ddim", self.steps)
        untouched = Untouched(watched=(0 if self.concept.target else 3,))
        model = Model(self.denoiser, self.network, self.table)
        return LecoStep(model, [self.concept], samplers, StepSettings(), untouched)

    def backward(self, loss: Tensor) -> None:
        """Backward, and the gradients dropped again: the optimizer costs the same everywhere."""
        torch.autograd.backward(loss)
        for parameter in self.network.parameters():
            parameter.grad = None


def ours(bench: Bench, kind: str) -> Callable[[int], None]:
    """Our step with fresh walks, which take the stop that they are given, or with the pool."""
    step, generator = bench.walker(), Generator().manual_seed(0)
    if kind == "pool":
        leco = LecoConfig(max_denoising_steps=bench.steps)
        pool = make_walks(leco, step, [bench.pair], generator)
        return lambda stop: _drop(step.run(pool, bench.backward))

    class GivenStop(FreshWalks):
        stop = 1

        def draw(self) -> list[Walk]:
            walk = step.begin(0, generator)
            walk.stop = self.stop
            walk_to_stops([walk], step.guide)
            return [walk]

    fresh = GivenStop(step.begin, step.guide, pairs=1, steps=bench.steps, per_step=1, generator=generator)  # type: ignore[arg-type]

    def one(stop: int) -> None:
        fresh.stop = stop
        step.run(fresh, bench.backward)

    return one


def _drop(result: object) -> None:
    del result


def baseline(bench: Bench, *, gradients_in_walk: bool) -> Callable[[int], None]:
    """A step as the published loops take it: two rows for every prediction."""
    step, generator, concept = bench.walker(), Generator().manual_seed(0), bench.concept

    def both(walk: Walk, prompt: int, scale: float) -> Tensor:
        def call(latents: Tensor) -> Tensor:
            rows = torch.cat([latents, latents])
            text = bench.table.rows([concept.unconditional] * len(latents) + [prompt] * len(latents))
            return bench.denoiser.predict(rows, walk.timestep.expand(len(rows)), text, walk.sizes.expand(len(rows), -1))

        # sd-scripts checkpoints the whole UNet call wherever gradients are on; LECO does not
        inputs = walk.model_input
        on = torch.is_grad_enabled() and gradients_in_walk
        pair = checkpoint(call, inputs, use_reentrant=False) if on else call(inputs)
        unconditional, conditional = pair.chunk(2)
        return guided(conditional, unconditional, scale)

    def one(stop: int) -> None:
        walk = step.begin(0, generator)
        with torch.set_grad_enabled(gradients_in_walk), bench.network.multiplier(bench.pair.multiplier):
            for _ in range(stop):
                walk.advance(both(walk, concept.target, bench.guidance))
        with torch.no_grad(), bench.network.multiplier(0.0):
            positive, neutral, unconditional = (
                both(walk, prompt, 1.0) for prompt in (concept.positive, concept.neutral, concept.unconditional)
            )
        with bench.network.multiplier(bench.pair.multiplier):
            student = both(walk, concept.target, 1.0)
            goal = neutral - bench.pair.guidance_scale * (positive - unconditional)
            bench.backward((student - goal.detach()).square().mean())

    return one


class Peak:
    """Peak memory during a block: of the device, or of this process as a thread samples it."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.bytes = device, 0

    def __enter__(self) -> Peak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return self
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.01):
            self.bytes = max(self.bytes, process.memory_info().rss)

    def __exit__(self, *error: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
            return
        self._stop.set()
        self._thread.join()


def make_bench(name: str, kind: str, options: argparse.Namespace) -> Bench:
    """The model called ``name`` with an erase pair or one pair of a slider."""
    device, torch_dtype = torch.device(options.device), DTYPES[options.dtype]
    if name == "tiny":
        unet = load_model("builtin:tiny", dtype=options.dtype, device=device).module
        pixels, width = 64, 64
    else:
        config = json.loads(files("leco_plugin.families.configs").joinpath(f"{FULL_SIZE[name]}.json").read_text())
        with torch.device(device):
            unet = UNet2DConditionModel.from_config(config["unet"]).to(torch_dtype)
        pixels, width = options.pixels, unet.config.cross_attention_dim
    unet.requires_grad_(False)
    if options.checkpointing:
        unet.train()
        unet.enable_gradient_checkpointing()
    pooled = torch.randn(4, 1280).to(device, torch_dtype) if name == "sdxl" else None
    denoiser = (CountingSDXL if name == "sdxl" else CountingSD)(Path(), unet, SCHEDULER, device)
    network = PeftLora(unet, rank=8, alpha=4.0, seed=0)
    text = torch.randn(4, 77, width, generator=Generator().manual_seed(0)).to(device, torch_dtype)
    table = TensorTable(text, pooled)
    prompts = ("a", "a") if kind == "erase" else ("", "a")
    pair = PromptPair(target=prompts[0], positive=prompts[1], resolution=(pixels, pixels), batch_size=options.batch)
    return Bench(denoiser, network, table, pair, options.steps)


def compare(bench: Bench, options: argparse.Namespace) -> dict[str, Meter]:
    """Every method at the same stops, one after the other in turn, so that they share the machine's moods."""
    meters = {name: Meter() for name in ("pool", "fresh", "LECO", "sd-scripts")}
    bench.denoiser.meter = meters["pool"]
    methods = {
        "pool": ours(bench, "pool"),
        "fresh": ours(bench, "fresh"),
        "LECO": baseline(bench, gradients_in_walk=False),
        "sd-scripts": baseline(bench, gradients_in_walk=True),
    }
    stops = [max(1, round(bench.steps * part / (options.rounds + 1))) for part in range(1, options.rounds + 1)]
    for name, method in methods.items():
        bench.denoiser.meter = None
        method(1)  # warm-up
        meters[name] = Meter()
    for stop in stops:
        for name, method in methods.items():
            bench.denoiser.meter = meters[name]
            repeats = 3 if name == "pool" else 1
            with Peak(bench.denoiser.device) as peak:
                began = time.perf_counter()
                for _ in range(repeats):
                    method(stop)
                if bench.denoiser.device.type == "cuda":
                    torch.cuda.synchronize()
            meters[name].seconds += [(time.perf_counter() - began) / repeats] * repeats
            meters[name].peak_bytes = max(meters[name].peak_bytes, peak.bytes)
    return meters


def counted(bench: Bench, options: argparse.Namespace, steps: int) -> tuple[float, float]:
    """(rows, calls) of a step over a whole run of ``steps`` steps of the pool, its first walks included."""
    bench.denoiser.meter = meter = Meter()
    one = ours(bench, "pool")
    for _ in range(steps):
        one(0)
    bench.denoiser.meter = None
    return meter.rows / steps / options.batch, meter.calls / steps


def arithmetic(bench: Bench, options: argparse.Namespace, seconds: float) -> str:
    """What the step does of what the machine can: its TFLOP/s beside those of a large matrix product."""
    one, device = ours(bench, "pool"), bench.denoiser.device
    bench.denoiser.meter = None
    one(0)  # the pool is filled
    with FlopCounterMode(display=False) as counter:
        one(0)
    side = 8192 if device.type == "cuda" else 1024
    left, right = torch.randn(2, side, side, device=device, dtype=DTYPES[options.dtype])
    best = min(_time(lambda: left @ right, device) for _ in range(10))
    done, ceiling = counter.get_total_flops() / seconds / 1e12, 2 * side**3 / best / 1e12
    return f"pool: {done:.3g} TFLOP/s, {done / ceiling:.0%} of the {ceiling:.3g} TFLOP/s of a bare matrix product"


def _time(run: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def table(meters: dict[str, Meter], batch: int) -> str:
    """Markdown; ratios are to sd-scripts and to LECO in the same run."""
    pace = {name: 1 / fmean(meter.seconds) for name, meter in meters.items()}
    lines = [
        "| | steps/s | x sd-scripts | x LECO | UNet rows a step and sample | calls a step | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, meter in meters.items():
        count = len(meter.seconds)
        lines.append(
            f"| {name} | {pace[name]:.3f} | {pace[name] / pace['sd-scripts']:.1f} | {pace[name] / pace['LECO']:.1f} "
            f"| {meter.rows / count / batch:.1f} | {meter.calls / count:.1f} | {meter.peak_bytes / 2**30:.2f} GiB |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=["tiny", *FULL_SIZE])
    parser.add_argument("--kinds", nargs="+", default=["erase", "slider"], choices=["erase", "slider"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40, help="sampler steps N of a whole walk")
    parser.add_argument("--rounds", type=int, default=3, help="stops, spread evenly over 1..N-1")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    found: dict[str, object] = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    for name in options.models:
        for kind in options.kinds:
            bench = make_bench(name, kind, options)
            meters = compare(bench, options)
            print(f"\n{name}, {kind}, {bench.pair.resolution[0]} px, batch {options.batch}, N = {options.steps}, "
                  f"{options.dtype}, {options.device}, {torch.get_num_threads()} threads\n\n{table(meters, options.batch)}", flush=True)  # fmt: skip # noqa: E501
            print(f"\n{arithmetic(bench, options, fmean(meters['pool'].seconds))}", flush=True)
            found[f"{name} {kind}"] = {k: [m.seconds, m.rows, m.calls, m.peak_bytes] for k, m in meters.items()}
            if name == "tiny":
                rows, calls = counted(bench, options, 500)
                print(
                    f"\npool over a run of 500 steps, first walks included: {rows:.2f} rows, {calls:.2f} calls a step"
                )
                found[f"{name} {kind} counted"] = [rows, calls]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
