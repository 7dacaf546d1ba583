"""The scripts of benchmarks/ still run: they are started by hand, and seldom."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

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
