"""Cards: what they hold, and how fast they are, roughly."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

SIZES = (8, 12, 16, 24)
"""GiB that cards usually have."""
USABLE = 0.95
"""Of a card's memory: the rest has the system, or the desktop."""


@dataclass(frozen=True)
class Speed:
    """TFLOP/s that training reaches, in half precision and in float32: about half of what the data sheet promises."""

    half: float
    full: float


SPEEDS: Mapping[str, Speed] = {
    "RTX 3060": Speed(13, 6),
    "RTX 4070": Speed(30, 14),
    "RTX 3090": Speed(35, 17),
    "RTX 4090": Speed(80, 40),
    "A100": Speed(120, 10),
    "H100": Speed(300, 30),
}
CPU = Speed(0.2, 0.3)
"""A desktop's eight cores."""

CALL_SECONDS = 0.02
"""What a call of a UNet takes at the least, however little there is to compute: its thousand kernels are started."""


@dataclass(frozen=True)
class Card:
    """A card in this machine, in bytes."""

    name: str
    total: int
    free: int


def cards_here() -> list[Card]:
    """The NVIDIA cards of this machine; none where their driver is not there or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
        return [_card(line) for line in answer.splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _card(line: str) -> Card:
    name, total, free = line.rsplit(",", 2)
    return Card(name.strip(), int(total) * 2**20, int(free) * 2**20)
