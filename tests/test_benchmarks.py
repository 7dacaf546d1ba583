"""What is proven by hand is run as benchmarks/README.md says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EFFECT = Path(__file__).parents[1] / "benchmarks" / "effect.py"


def test_a_table_of_runs_tells_ranks_from_lines(tmp_path: Path) -> None:
    """Run as a script: figures 1, 2, 3 rank pictures of 1, 4, 9 rightly, and follow them by .99; 3, 1, 2 do not."""
    runs = tmp_path / "runs.jsonl"
    with runs.open("w", encoding="utf-8") as file:
        for effect, reached, growth in ((1, 3, 1), (2, 1, 4), (3, 2, 9)):
            found = dict.fromkeys(("side_effect", "progress", "drift"), effect)
            held_out = {"effect": effect, "goal_reached": reached, **found}
            training = {"effect": effect + 0.5, "goal_reached": reached, **found}
            record = {"trial": {"kind": "slider"}, "pictures": {"growth": growth}}
            file.write(json.dumps({**record, "held out": held_out, "training": training}) + "\n")
    command = [sys.executable, str(EFFECT), str(runs), "--table"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "slider, 3 runs" in done.stdout
    assert "erase" not in done.stdout
    assert "| effect, held out | +1.00 | +0.99 |" in done.stdout
    assert "| goal_reached, held out | -0.50 |" in done.stdout
    assert "| effect, training | +1.00 | +0.99 | 0.500 | +0.500 |" in done.stdout
