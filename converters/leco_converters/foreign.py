"""The settings of other trainers: what each is called here, when it asks for nothing, and what is lost where it does.

LECO and Concept Sliders have one schema; ai-toolkit's is that of its processes `slider` and `concept_slider`, with all
that its web UI writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leco_plugin.config.toml_file import tomllib

ANY = "*"
"""Stands for every value."""
TABLE: Mapping[str, Any] = tomllib.loads((Path(__file__).parent / "keys.toml").read_text(encoding="utf-8"))
"""All that is said of other trainers in one place; each part has a comment there."""
ARCHITECTURES: Sequence[str] = TABLE["architectures"]["keys"]


@dataclass(frozen=True)
class Row:
    """One setting of another trainer."""

    to: str = ""
    """What it is called here, as section.name; empty: it has no counterpart."""
    why: str = ""
    """What is said where it has none."""
    off: Sequence[object] = ()
    """Values that ask for nothing, besides null, an empty text, list or table."""
    default: object = None
    """What its trainer takes where it is not written, and this one does not."""
    needs: str = ""
    """Another setting without which this one asks for nothing; flow: a family of flow models."""
    words: Mapping[str, object] = field(default_factory=dict)
    """Its words, in lower case, for our values."""

    def is_off(self, value: object) -> bool:
        """Say whether a value asks for nothing."""
        if value is None or value in ("", [], {}) or ANY in self.off or value in self.off:
            return True
        return value is False and not self.to and True not in self.off


def _rows(trainer: str) -> Mapping[str, Row]:
    table = TABLE[trainer]
    rows = {name: Row(**({"to": row} if isinstance(row, str) else row)) for name, row in table["here"].items()}
    for why, lost in table["lost"].items():
        rows |= {name: Row(why=why, **({"off": row} if isinstance(row, list) else row)) for name, row in lost.items()}
    return rows


LECO = _rows("leco")
SLIDER = _rows("ai-toolkit")
# there it is a level of noise, not a number of steps
_LEVEL = Row(why=SLIDER["train.min_denoising_steps"].why, off=(999, 1000))
CONCEPT_SLIDER: Mapping[str, Row] = {**SLIDER, "train.max_denoising_steps": _LEVEL}
