"""What `leco tune` makes of a job on a built-in model: the best of twelve trials beside the job as it is.

    python benchmarks/tune.py output/tune --kind slider --seeds 1 2 3

Both are trained once more, from a seed that no trial had, and measured on noise that no training had. Of a slider, the
model's reader says how much larger shapes are at +1 than at -1, too. A study that is in the folder goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effect import slider_pictures

from leco_plugin.config.build import load_job
from leco_plugin.demo.run import JOBS
from leco_plugin.families.known import settle
from leco_plugin.plugins import run_job
from leco_plugin.tune.run import Wanted, subject_of, tune
from leco_plugin.tune.trial import Trials

AGAIN = 100
"""Added to a study's seed where both jobs are trained once more."""


def row(name: str, path: Path, overrides: dict[str, object], folder: Path, kind: str, limit: float) -> str:
    """Train a job once more, and say what it does; measured with what the first one keeps."""
    seed = int(str(overrides["training_seed"])) + AGAIN
    again = {"name": name, "output_dir": str(folder / name), "training_seed": seed, "save.overwrite": True}
    settled = settle(load_job(path, {**overrides, **again}).job)
    trained = run_job(settled.job).path
    own = settle(load_job(JOBS / f"{kind}.yaml", overrides).job).job
    found = Trials(subject_of(own), limit).measure(trained)
    growth = f"{slider_pictures('builtin:tiny', trained)['growth']:.2f}" if kind == "slider" else "-"
    cells = (name, found.effect / found.whole, found.side_effect, found.drift, found.score(limit))
    shown = [*(f"{one:.2f}" if isinstance(one, float) else one for one in cells), growth]
    return f"| {' | '.join(shown)} |"


def main() -> None:
    """Print two rows for every study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=("slider", "erase"), default="slider")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--drift-limit", type=float, default=1.0)
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        folder = options.folder / f"{options.kind}-{seed}"
        job = JOBS / f"{options.kind}.yaml"
        own: dict[str, object] = {"training_folder": str(folder), "training_seed": seed, "device": "cpu"}
        own["train.steps"] = options.steps
        tune(job, own, Wanted(options.trials, drift_limit=options.drift_limit, output=folder))
        rows.append(row(f"as-it-is-{seed}", job, own, folder, options.kind, options.drift_limit))
        best = {"training_seed": seed, "device": "cpu"}
        rows.append(row(f"best-{seed}", folder / "best.yaml", best, folder, options.kind, options.drift_limit))
    head = ("job, study's seed", "effect / whole", "side effect", "drift", "score", "growth")
    print("| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows, sep="\n")


if __name__ == "__main__":
    main()
