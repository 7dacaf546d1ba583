"""Strengths of a LoRA as they are written on a command line."""

from __future__ import annotations

import math
import re

from leco_plugin.errors import ConfigError

_RANGE = re.compile(r"([^:]+?)\.\.([^:]+)(?::([^:]+))?")
_MOST = 100


def parse_strengths(text: str) -> tuple[float, ...]:
    """``-2..2`` in steps of 1, ``-2..2:0.5`` in steps of 0.5, or a list such as ``0,0.5,1``; ascending, each once.

    Raises ConfigError for anything else.
    """
    match = _RANGE.fullmatch(text.strip())
    try:
        if match is None:
            found = [float(part) for part in text.split(",")]
        else:
            low, high, step = (float(part or 1) for part in match.groups())
            # not by adding up: 0.1 ten times is not 1
            count = math.floor((high - low) / step + 1e-6) + 1 if step > 0 else 0
            found = [round(low + number * step, 6) for number in range(min(count, _MOST + 1))]
    except (ValueError, OverflowError):
        found = []
    if not found or len(found) > _MOST or not all(map(math.isfinite, found)):
        raise ConfigError(f"{text!r} are not strengths", fix=f"write -2..2, -2..2:0.5 or 0,0.5,1 ({_MOST} at most)")
    return tuple(sorted({number + 0.0 for number in found}))
