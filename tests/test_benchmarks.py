"""The scripts of benchmarks/ still run: they are started by hand, and seldom."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

FOLDER = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    """One of them as a module, which is all that most of them need to show that what they import is there."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look it up
    sys.modules[spec.name] = module
    # they import one another by name, as where they are started
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_what_a_card_is_measured_with_runs_on_a_cpu(capsys):
    """Every model at small size: a line each, with speed, share of the ceiling, estimate and time of the first step."""
    variants = {"SD 1.5": ["PEFT's own LoRA"], "flow, 6 B": ["fp8"]}
    for case, names in variants.items():
        script("gpu").main(["--small", "--seconds", "0.01", "--cases", case, "--variants", *names])
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("| SD", "| flow"))]
    assert [line[2] for line in lines] == [name for names in variants.values() for name in names]
    assert all(float(line[3]) > 0 for line in lines)


def test_a_figure_is_ranked_and_followed_along_a_line_and_a_curve():
    """Red that goes within a tenth of an effect of 1: a line follows it badly, a curve through the other runs well."""
    effects = np.linspace(0, 1.5, 31)
    gone = 1 / (1 + np.exp((1 - effects) / 0.03))
    ranked, line, curve = map(float, script("effect")._alike(effects, gone))
    assert (ranked, curve) == (1.0, 1.0)
    assert line == pytest.approx(np.corrcoef(effects, gone)[0, 1], abs=0.01)
    assert line < 0.9
    # what does not hang together is not foretold by the runs that are fitted
    assert float(script("effect")._alike(effects, np.sin(1000 * np.arange(31.0) ** 2))[2]) < 0.5


def rows_of(page: str, first: str) -> list[list[str]]:
    """Cells of the table on a page of docs/ whose head begins with ``first``."""
    lines = (FOLDER.parent / "docs" / page).read_text("utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(first))
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.parametrize(("title", "layers"), [
    # every projection of the attention blocks, 1x1 convolutions among them; no resnet, no time embedding
    ("Stable Diffusion 1.5, 512", r"\.attentions\."),
    # attention and feed-forward of the blocks; nothing of what modulates them, nor of what refines noise and text
    ("Z-Image (6 B), 1024", r"^layers\.\d+\.(attention|feed_forward)\."),
])  # fmt: skip
def test_bytes_that_a_step_sends_are_those_of_the_models_own_layers(tmp_path, title, layers):
    """Rank x (inputs + outputs) of each layer, four bytes a number; counted on the class, and as the table has it."""
    scale = script("scale")
    name, _ = scale.MODELS[title.rpartition(",")[0]]
    folder = scale.folder_of(name, tmp_path)
    part = folder / ("transformer" if (folder / "transformer").is_dir() else "unet")
    kind = {"unet": "UNet2DConditionModel", "transformer": "ZImageTransformer2DModel"}[part.name]
    with torch.device("meta"):
        model = getattr(diffusers, kind).from_config(json.loads((part / "config.json").read_text()))
    chosen = [one for name, one in model.named_modules() if re.search(layers, name)]
    numbers = sum(one.in_features + one.out_features for one in chosen if isinstance(one, nn.Linear))
    numbers += sum(one.in_channels + one.out_channels for one in chosen if isinstance(one, nn.Conv2d))
    (row,) = [row for row in rows_of("scale.md", "| model, pixels |") if row[0] == title]
    assert row[1:4] == [f"{4 * rank * numbers / 1e6:.1f}" for rank in scale.RANKS]


def test_the_shares_of_time_follow_from_the_bytes_and_seconds_beside_them():
    """By the ring's 2 (N - 1) / N, worked out once more; within what rounding the seconds does."""
    scale = script("scale")
    models = {row[0].rpartition(",")[0]: row for row in rows_of("scale.md", "| model, pixels |")}
    shares = rows_of("scale.md", "| model | link |")
    assert len(shares) == len(models) * len(scale.LINKS)
    for name, link, *cells in shares:
        megabytes, seconds = float(models[name][2]), float(models[name][5])
        for devices, cell in zip((2, 8, 16, 64), cells, strict=True):
            sent = 2 * (devices - 1) / devices * megabytes * 1e6 / scale.LINKS[link]
            assert float(cell.rstrip("%")) == pytest.approx(100 * seconds / (seconds + 0.004 + sent), abs=2)
