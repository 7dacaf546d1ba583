"""What the tests of conversions share: writing a source, converting it, and reading the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from leco_converters import Conversion, Note, Request, convert

from leco_plugin.config.build import load_prompts
from leco_plugin.config.schema import PromptPair
from leco_plugin.errors import ConfigError, Problem


@dataclass(frozen=True)
class Result:
    """A conversion and the file that it wrote."""

    path: Path
    text: str
    conversion: Conversion

    @property
    def pairs(self) -> tuple[PromptPair, ...]:
        """The pairs of a prompt file."""
        return load_prompts(self.path).pairs

    def notes(self, key: str) -> list[Note]:
        """What the report says about one key of the source."""
        return [note for note in self.conversion.report.notes if note.where.key == key]

    def lost(self) -> list[str]:
        """Keys without a counterpart."""
        return [note.where.key for note in self.conversion.report.notes if note.kind == "lost"]


ToToml = Callable[..., Result]
Refused = Callable[..., tuple[Problem, ...]]


@pytest.fixture
def to_toml(tmp_path: Path) -> ToToml:
    """Convert a text to a prompt TOML."""

    def run(text: str, name: str = "source.yaml", **options: object) -> Result:
        source = tmp_path / name
        source.write_text(text, encoding="utf-8", newline="")
        target = tmp_path / "result.toml"
        conversion = convert(Request(source, target, force=True, **options))  # type: ignore[arg-type]
        return Result(target, target.read_text(encoding="utf-8") if conversion.written else "", conversion)

    return run


@pytest.fixture
def to_yaml(tmp_path: Path) -> ToToml:
    """Convert a text to a job file."""

    def run(text: str, name: str = "source.toml", **options: object) -> Result:
        source = tmp_path / name
        source.write_text(text, encoding="utf-8", newline="")
        target = tmp_path / "result.yaml"
        conversion = convert(Request(source, target, force=True, **options))  # type: ignore[arg-type]
        return Result(target, target.read_text(encoding="utf-8") if conversion.written else "", conversion)

    return run


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Convert a text that must be refused, and return why; nothing may be left behind."""

    def run(text: str | bytes, name: str = "source.yaml", **options: object) -> tuple[Problem, ...]:
        source = tmp_path / name
        source.write_bytes(text.encode() if isinstance(text, str) else text)
        before = sorted(tmp_path.iterdir())
        with pytest.raises(ConfigError) as caught:
            convert(Request(source, **options))  # type: ignore[arg-type]
        assert sorted(tmp_path.iterdir()) == before
        return caught.value.problems

    return run
