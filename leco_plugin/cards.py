"""NVIDIA cards as their driver tells of them: without torch, and whether or not torch can use them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence


def ask_nvidia(fields: str, *, seconds: int) -> Sequence[str]:
    """A line for each card, of ``fields`` by nvidia-smi's names with commas between; none where it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=seconds, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]
