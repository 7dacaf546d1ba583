"""Which figure says what the pictures say: many short runs on a built-in model, ranked by figures and by a reader.

    python benchmarks/effect.py runs.jsonl                 # every run that the file has not yet
    python benchmarks/effect.py runs.jsonl --table

A run trains as a job does; what it shows at its end is compared with held-out noise (as `leco evaluate` measures), and
both with pictures that the model's reader counts: the areas at +1 and -1, or the red that is left and how far its hue
moved.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from leco_plugin.config.schema import (
    JobConfig,
    LecoConfig,
    ModelConfig,
    NetworkConfig,
    PromptPair,
    SaveConfig,
    TrainConfig,
)
from leco_plugin.demo.measure import Asked, Studio, erase_test, read_all, slider_test
from leco_plugin.events import RunEnded
from leco_plugin.lora.file import Lora
from leco_plugin.lora.subject import Asked as AskedSubject
from leco_plugin.lora.subject import find_subject, load_model
from leco_plugin.observers.history import history_path, read_history
from leco_plugin.plugins import run_job

Trial = Mapping[str, str | float]
Record = dict[str, dict[str, float | str]]

BASE: Trial = {"lr": 1e-3, "steps": 60, "rank": 4, "guidance": 1.0, "walk": "pool", "keep": "", "seed": 1, "words": ""}
SLIDERS: Sequence[Trial] = (
    {},
    {"seed": 2},
    {"seed": 3},
    {"lr": 1e-4},
    {"lr": 2e-4},
    {"lr": 3e-4},
    {"lr": 5e-4},
    {"lr": 2e-3},
    {"lr": 3e-3},
    {"steps": 20},
    {"steps": 40},
    {"steps": 100},
    {"steps": 150},
    {"rank": 1},
    {"rank": 16},
    {"guidance": 0.4},
    {"guidance": 0.6, "lr": 5e-4},
    {"guidance": 2.0},
    {"guidance": 2.0, "lr": 3e-4},
    {"guidance": 3.0, "steps": 40},
    {"walk": "fresh", "steps": 25},
    {"walk": "fresh", "steps": 25, "lr": 3e-3},
    {"keep": "colours"},
    {"keep": "colours", "lr": 3e-4},
)
ERASES: Sequence[Trial] = (
    {"guidance": 0.8},
    {"guidance": 0.8, "seed": 2},
    {"guidance": 0.8, "seed": 3},
    {"guidance": 0.0},
    {"guidance": 0.25},
    {"guidance": 0.4},
    {"guidance": 0.4, "steps": 120},
    {"guidance": 0.4, "steps": 25},
    {"guidance": 1.5, "steps": 30},
    {"guidance": 0.8, "lr": 1e-4},
    {"guidance": 0.8, "lr": 2e-4},
    {"guidance": 0.8, "lr": 4e-4},
    {"guidance": 0.8, "lr": 6e-4},
    {"guidance": 0.8, "lr": 2e-3},
    {"guidance": 0.8, "rank": 1},
    {"guidance": 0.8, "rank": 16},
    {"guidance": 0.8, "walk": "fresh", "steps": 25},
    {"guidance": 0.4, "walk": "fresh", "steps": 25, "lr": 2e-3},
    {"guidance": 0.4, "keep": "colours"},
    {"guidance": 0.8, "keep": "colours"},
    {"guidance": 0.8, "keep": "colours", "lr": 3e-4},
    {"guidance": 0.4, "words": "matched"},
    {"guidance": 0.8, "words": "matched"},
    {"guidance": 0.8, "words": "matched", "lr": 3e-4},
    {"guidance": 0.4, "words": "matched", "keep": "colours", "steps": 120},
)
KINDS = {"slider": SLIDERS, "erase": ERASES}
KEPT = ("an orange shape", "a yellow shape", "a green shape", "a blue shape", "a purple shape")
FIGURES = ("effect", "side_effect", "goal_reached", "progress", "drift")


def pairs_of(kind: str, trial: Trial) -> tuple[PromptPair, ...]:
    """A slider for size, or red taken away; its unconditional is empty, or the prompt without the word."""
    common = {"resolution": (64, 64), "guidance_scale": float(trial["guidance"])}
    if kind == "erase":
        prompts = ("a red shape", "a small red circle", "a red star on a gray background", "a big red square")
        if trial["words"] != "matched":
            return tuple(PromptPair(target=p, positive=p, **common) for p in ("red", *prompts[:2]))
        without = [(p, " ".join(p.replace("red ", "").split())) for p in prompts]
        return tuple(PromptPair(target=p, positive=p, unconditional=w, neutral=w, **common) for p, w in without)
    sides = ("big", "small", "erase", 1), ("small", "big", "enhance", 1), ("small", "big", "erase", -1)
    return tuple(
        PromptPair(
            target="a shape", positive=f"a {p} shape", unconditional=f"a {u} shape", neutral="a shape", action=a,
            multiplier=-m, **common,
        )
        for p, u, a, m in (*sides, ("big", "small", "enhance", -1))
    )  # fmt: skip


def job_of(kind: str, trial: Trial, model: str, folder: Path) -> JobConfig:
    """A job as a user would have it."""
    leco = LecoConfig(
        max_denoising_steps=20,
        walk=str(trial["walk"]),
        pairs_per_step=4,
        preserve=KEPT if trial["keep"] else (),
    )
    return JobConfig(
        name="run",
        output_dir=folder,
        device="cpu",
        training_seed=int(trial["seed"]),
        model=ModelConfig(name_or_path=model),
        network=NetworkConfig(linear=int(trial["rank"]), linear_alpha=float(trial["rank"])),
        train=TrainConfig(steps=int(trial["steps"]), lr=float(trial["lr"])),
        save=SaveConfig(dtype="float32"),
        leco=leco,
        pairs=pairs_of(kind, trial),
    )


def run(kind: str, trial: Trial, model: str) -> Record:
    """Train, measure, draw, read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = run_job(job_of(kind, trial, model, folder)).path
        (ended,) = read_history(history_path(folder, "run")).of(RunEnded)
        training = {figure: getattr(ended, figure, None) for figure in FIGURES}
        return {
            "trial": dict(trial),
            "training": {figure: value for figure, value in training.items() if value is not None},
            "held out": held_out(path),
            "pictures": slider_pictures(model, path) if kind == "slider" else erase_pictures(model, path),
        }


def held_out(path: Path) -> dict[str, float]:
    """The figures of `leco evaluate` at the strengths of training."""
    lora = Lora.read(path)
    subject = find_subject([lora], AskedSubject(seeds=4))
    denoiser = load_model(subject.job)
    with subject.attached(lora, denoiser) as network:
        measured = subject.bench(denoiser, network).measure([1.0, -1.0])
    sides = [1.0, -1.0] if any(one.pair.multiplier < 0 for one in measured.pairs) else [1.0]
    own = measured.at_own_side(1.0)
    return {
        "effect": own.along,
        "side_effect": own.beside,
        "goal_reached": fmean(measured.reached(side) or 0.0 for side in sides),
        "progress": own.along / measured.asked,
        "drift": measured.drift(1.0) or 0.0,
    }


def slider_pictures(model: str, path: Path) -> dict[str, float]:
    """The mean areas of 30 pictures at either end."""
    asked = slider_test(7)
    studio = Studio(model, path, [one.prompt for one in asked])
    areas = {f"area at {at:+d}": fmean(one.area for one in read(studio, asked, at)) for at in (-1, 1)}
    return {**areas, "growth": math.log(areas["area at +1"] / areas["area at -1"])}


def erase_pictures(model: str, path: Path) -> dict[str, float]:
    """What is left of red in 30 pictures, how far the hue moved in degrees, and how many shapes are right."""
    asked = [one for one in erase_test(7) if one.colour == "red"]
    studio = Studio(model, path, [one.prompt for one in asked])
    before, after = read(studio, asked, 0), read(studio, asked, 1)
    hues = [
        _turned(a.hue, b.hue) for a, b in zip(before, after, strict=True) if a.hue is not None and b.hue is not None
    ]
    return {
        "red left": fmean(one.colour == "red" for one in after),
        "hue moved": fmean(hues) if hues else 180.0,
        "shape right": fmean(reading.shape == one.shape for one, reading in zip(asked, after, strict=True)),
    }


def read(studio: Studio, asked: Sequence[Asked], strength: float):
    """The reader's view."""
    return read_all(studio.pictures(asked, strength))


def _turned(before: float, after: float) -> float:
    return abs((after - before + 180) % 360 - 180)


def main() -> None:
    """Run, or show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--most", type=int, default=1000, help="end after so many runs")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        for kind in options.kinds:
            if runs := [one for one in records(options.file) if one["trial"]["kind"] == kind]:
                print(table(kind, runs))
        return
    done = [one["trial"] for one in records(options.file)]
    wanted = [{"kind": kind, **BASE, **trial} for kind in options.kinds for trial in KINDS[kind]]
    for trial in [one for one in wanted if one not in done][: options.most]:
        found = run(str(trial["kind"]), trial, options.model)
        with options.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), flush=True)


SEEN = {"slider": {"growth": np.asarray}, "erase": {"hue moved": np.log, "red left": np.negative}}
"""What the reader sees, as it grows with what a LoRA does; the hue grows by factors, as areas do."""


def table(kind: str, runs: Sequence[Record]) -> str:
    """A Markdown table: how well each figure ranks (Spearman) and follows the pictures (Pearson; along a curve, see
    ``_foretold``), and how close the figures of training are to held-out ones."""
    names = [f"{seen}, {how}" for seen in SEEN[kind] for how in ("Spearman", "Pearson", "Pearson along a curve")]
    head = ["figure", *names, "mean difference in training", "bias", "within .05"]
    lines = [f"{kind}, {len(runs)} runs", "", *_row(head), *_row(["---"] * len(head))]
    for where in ("held out", "training"):
        for figure in FIGURES:
            if any(figure not in one[where] for one in runs):
                continue
            values = np.array([one[where][figure] for one in runs], dtype=float)
            cells = [cell for seen, grown in SEEN[kind].items() for cell in _alike(values, grown(_column(runs, seen)))]
            gap = values - np.array([one["held out"][figure] for one in runs], dtype=float)
            within = f"{(abs(gap) <= 0.05).sum()} of {len(gap)}"
            close = [f"{abs(gap).mean():.3f}", f"{gap.mean():+.3f}", within] if where == "training" else [""] * 3
            lines += _row([f"{figure}, {where}", *cells, *close])
    return "\n".join([*lines, ""])


def _column(runs: Sequence[Record], seen: str) -> np.ndarray:
    return np.array([one["pictures"][seen] for one in runs], dtype=float)


def _alike(figure: np.ndarray, seen: np.ndarray) -> list[str]:
    pairs = (_ranks(figure), _ranks(seen)), (figure, seen), (_foretold(figure, seen), seen)
    return [f"{np.corrcoef(one, two)[0, 1]:+.2f}" for one, two in pairs]


def _foretold(figure: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """What is seen of each run by a logistic curve of the figure that is fitted to all the other runs."""
    low, high = figure.min(), figure.max()
    places = [
        (low + (high - low) * at, (high - low) * wide)
        for at in np.linspace(0, 1, 41)
        for wide in 2.0 ** -np.arange(1, 7)
    ]
    curves = np.array([1 / (1 + np.exp((at - figure) / wide)) for at, wide in places])
    return np.array([_fitted(curves, seen, np.arange(len(seen)) != one)[one] for one in range(len(seen))])


def _fitted(curves: np.ndarray, seen: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The curve that comes closest to what is seen where it is ``known``, shifted and stretched to fit it there."""
    centred = curves - curves[:, known].mean(1, keepdims=True)
    aim = seen[known] - seen[known].mean()
    part, square = centred[:, known] @ aim, (centred[:, known] ** 2).sum(1)
    best = (part**2 / square).argmax()
    return seen[known].mean() + part[best] / square[best] * centred[best]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, those of equal values their mean."""
    return np.array([(values < one).sum() + ((values == one).sum() - 1) / 2 for one in values], dtype=float)


def _row(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def records(path: Path) -> list[Record]:
    """The runs of the file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
