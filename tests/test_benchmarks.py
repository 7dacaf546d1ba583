"""The scripts of benchmarks/ still run: they are started by hand, and seldom."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    """One of them as a module, which is all that most of them need to show that what they import is there."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look it up
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
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
