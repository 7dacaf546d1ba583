"""What the tests of conversions read of a result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import toml
from leco_converters import Conversion, Note

from leco_plugin.config.build import load_prompts
from leco_plugin.config.schema import PromptPair
from leco_plugin.errors import Problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Result:
    """A conversion and the file that it wrote."""

    path: Path
    text: str
    """Without the line that names its schema."""
    conversion: Conversion

    @property
    def pairs(self) -> tuple[PromptPair, ...]:
        """The pairs of a prompt file."""
        return load_prompts(self.path).pairs

    @property
    def preserve(self) -> tuple[str, ...]:
        """What a prompt file preserves."""
        return load_prompts(self.path).preserve

    def notes(self, key: str) -> list[Note]:
        """What the report says about one key of the source."""
        return [note for note in self.conversion.report.notes if note.where.key == key]

    def lost(self) -> list[str]:
        """Keys without a counterpart."""
        return [note.where.key for note in self.conversion.report.notes if note.kind == "lost"]


Convert = Callable[..., Result]
Refused = Callable[..., tuple[Problem, ...]]


def both_trees(path: Path) -> tuple[object, object]:
    """What TOML says of a file, and what the parser of sd-scripts reads."""
    text = path.read_text(encoding="utf-8")
    return tomllib.loads(text), toml.loads(text)
