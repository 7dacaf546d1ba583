"""What each way of walking is worth: pool, fresh and no walk at all, on the built-in model.

    python benchmarks/quality.py --seeds 3 --output quality.json

Every run trains with the same prompts, optimizer and number of steps; what came of it is measured on held-out fresh
walks (how much of the goal is left) and on pictures that the model's reader counts. ``--equal-time`` gives the
others as many steps as fit into the wall time that `fresh` took.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from unittest import mock

import torch
from torch import Generator, Tensor

from leco_plugin.config.schema import LecoConfig, PromptPair, TrainConfig
from leco_plugin.core import walk
from leco_plugin.core.walk import Walk, Walks, draw_stop
from leco_plugin.demo.measure import Asked, erase_test, figures, read_all, slider_test
from leco_plugin.engine.concepts import encode_concepts
from leco_plugin.engine.measure import Bench, Course
from leco_plugin.engine.progress import Progress
from leco_plugin.engine.report import Report
from leco_plugin.engine.rows import Model, Samplers
from leco_plugin.engine.step import LecoStep, StepSettings
from leco_plugin.engine.stop import Stop
from leco_plugin.engine.walks import make_walks
from leco_plugin.families.load import load_model
from leco_plugin.hosts.builtin.loop import Loop
from leco_plugin.network.peft_lora import PeftLora
from leco_plugin.pictures.painter import Painter, PictureSettings

PICTURES = PictureSettings(height=64, width=64, steps=20, guidance_scale=4.0)
STEPS = 20


@dataclass(frozen=True)
class Trial:
    """One training: what, how, with which seed, and how long."""

    kind: str
    walk: str
    """fresh, none, pool as a job has it, or with another number of walks in flight, as pool8, or with first walks that
    go step by step, as pool-slow."""
    seed: int
    steps: int
    batch: int
    sampler: str
    lr: float
    guidance_scale: float


class NoWalk:
    """iLECO's shortcut: pure noise, said to be at a random timestep."""

    moves_on = False

    def __init__(self, step: LecoStep, pairs: int, steps: int, generator: Generator) -> None:
        self._step, self._pairs, self._steps, self._generator = step, pairs, steps, generator

    def draw(self) -> Sequence[Walk]:
        begun = self._step.begin(int(torch.randint(self._pairs, (), generator=self._generator)), self._generator)
        begun.position = draw_stop(self._steps, self._generator)
        return [begun]

    def behind(self) -> Sequence[Walk]:
        return ()

    def moved(self, walks: Sequence[Walk], predictions: Sequence[Tensor]) -> None:
        raise AssertionError


class Counted:
    """A denoiser that counts the rows it is asked for; everything else is the model's own."""

    def __init__(self, denoiser: object) -> None:
        self._denoiser, self.rows, self.calls = denoiser, 0, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._denoiser, name)

    def predict(self, latents: Tensor, *rest: object) -> Tensor:
        self.rows, self.calls = self.rows + len(latents), self.calls + 1
        return self._denoiser.predict(latents, *rest)  # type: ignore[attr-defined, no-any-return]


def pairs_of(trial: Trial) -> list[PromptPair]:
    """The pairs of a plain slider or a plain erase, as the first trials of this model had them."""
    common = {"resolution": (64, 64), "batch_size": trial.batch, "guidance_scale": trial.guidance_scale}
    if trial.kind == "erase":
        return [PromptPair(target=p, positive=p, **common) for p in ("red", "a red shape", "a red circle")]
    sides = ("a small shape", "a big shape", "erase", 1), ("a big shape", "a small shape", "enhance", 1)
    mirrored = ("a big shape", "a small shape", "erase", -1), ("a small shape", "a big shape", "enhance", -1)
    return [
        PromptPair(target="a shape", positive=p, unconditional=u, neutral="a shape", action=a, multiplier=m, **common)
        for p, u, a, m in (*sides, *mirrored)
    ]


def walks_of(trial: Trial, step: LecoStep, pairs: Sequence[PromptPair], generator: Generator) -> Walks:
    """The walks of a trial."""
    if trial.walk == "none":
        return NoWalk(step, len(pairs), STEPS, generator)
    leco = LecoConfig(max_denoising_steps=STEPS, walk="fresh")
    if trial.walk.startswith("pool"):
        size = trial.walk.removeprefix("pool").removesuffix("-slow")
        leco = LecoConfig(max_denoising_steps=STEPS, pool_size=int(size) if size else None)
    return make_walks(leco, step, pairs, generator)


def run(trial: Trial) -> dict[str, float]:
    """Train and measure; every figure of the trial by name."""
    denoiser = Counted(load_model("builtin:tiny", dtype="fp32", device=torch.device("cpu")))
    network = PeftLora(denoiser.module, rank=4, alpha=4.0, seed=trial.seed)
    pairs = pairs_of(trial)
    concepts = encode_concepts(pairs, denoiser)
    model = Model(denoiser, network, concepts.table)
    step = LecoStep(model, concepts.items, Samplers(denoiser, trial.sampler, STEPS), StepSettings())
    generator = Generator().manual_seed(trial.seed)
    # of this process alone: others on the machine change nothing
    began = time.process_time()
    train = TrainConfig(steps=trial.steps, lr=trial.lr)
    walks = walks_of(trial, step, pairs, generator)
    loop = Loop(
        step, walks, network, train, denoiser.device, Report([]), Progress(pairs), lambda done: None, lambda done: None
    )
    with mock.patch.object(walk, "FIRST_STRIDES", STEPS if trial.walk.endswith("-slow") else walk.FIRST_STRIDES):
        loop.run(Stop())
    found = {"seconds": time.process_time() - began, "rows": float(denoiser.rows)}
    course = Course(trial.sampler, STEPS, StepSettings().denoise_guidance_scale)
    measured = Bench(denoiser, network, pairs, [], course).measure([1.0, -1.0])
    found["left"] = fmean(1 - part for side in (1.0, -1.0) if (part := measured.reached(side)) is not None)
    # every colour, shape and size once
    asked = erase_test(7)[:90] if trial.kind == "erase" else slider_test(7)
    painter = Painter(denoiser, network, [one.prompt for one in asked], PICTURES)
    return {**found, **dict(pictures(trial, painter, asked))}


def pictures(trial: Trial, painter: Painter, asked: Sequence[Asked]) -> Iterator[tuple[str, float]]:
    """What the reader counts: the erased colour and the others, or the areas along the slider."""
    shots = [one.shot for one in asked]
    if trial.kind == "slider":
        for strength in (-1, 0, 1):
            found = figures(asked, read_all(painter.draw(shots, strength)))
            yield f"area at {strength:+d}", found.mean_area
            yield f"colour kept at {strength:+d}", found.colour_right
        return
    readings = read_all(painter.draw(shots, 1))
    red = [n for n, one in enumerate(asked) if one.colour == "red"]
    others = [n for n, one in enumerate(asked) if one.colour != "red"]
    yield "red after", figures([asked[n] for n in red], [readings[n] for n in red]).colour_right
    yield "others kept", figures([asked[n] for n in others], [readings[n] for n in others]).colour_right


def summary(results: dict[str, list[dict[str, float]]]) -> str:
    """A Markdown table: mean +- standard deviation over the seeds."""
    names = list(next(iter(results.values()))[0])
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for label, runs in results.items():
        cells = [_spread([run[name] for run in runs]) for name in names]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    digits = 0 if fmean(values) >= 10 else 3
    spread = f" +- {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=["erase", "slider"])
    parser.add_argument("--walks", nargs="+", default=["fresh", "pool", "none"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--equal-time", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    everything: dict[str, dict[str, list[dict[str, float]]]] = {}
    for kind in options.kinds:
        lr, strength = (6e-4, 0.8) if kind == "erase" else (1e-3, 1.0)
        results: dict[str, list[dict[str, float]]] = {}
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for way in options.walks:
                trial = Trial(
                    kind, way, seed, options.steps, options.batch, options.sampler, lr, strength
                )  # fmt: skip
                found = run(trial)
                results.setdefault(way, []).append(found)
                print(kind, way, seed, json.dumps({k: round(v, 4) for k, v in found.items()}), flush=True)
                if options.equal_time and way != "fresh" and "fresh" in results:
                    factor = results["fresh"][-1]["seconds"] / found["seconds"]
                    longer = replace(trial, steps=round(trial.steps * factor))
                    results.setdefault(f"{way}, equal time", []).append(run(longer))
        print(f"\n{kind}, {options.steps} steps\n\n{summary(results)}\n", flush=True)
        everything[kind] = results
    if options.output:
        options.output.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
