"""Writes a source, converts it, and reads the result."""

from __future__ import annotations

from pathlib import Path

import pytest
from convert_results import Convert, Refused, Result
from leco_converters import Request, convert

from leco_plugin.config.editors import without_schema_line
from leco_plugin.errors import ConfigError, Problem


@pytest.fixture
def to_toml(tmp_path: Path) -> Convert:
    """Convert a text to a prompt TOML."""

    def run(text: str, name: str = "source.yaml", **options: object) -> Result:
        source = tmp_path / name
        source.write_text(text, encoding="utf-8", newline="")
        target = tmp_path / "result.toml"
        conversion = convert(Request(source, target, force=True, **options))  # type: ignore[arg-type]
        return Result(
            target, without_schema_line(target.read_text(encoding="utf-8")) if conversion.written else "", conversion
        )

    return run


@pytest.fixture
def to_yaml(tmp_path: Path) -> Convert:
    """Convert a text to a job file, one of ai-toolkit's own slider unless another is asked for."""

    def run(text: str, name: str = "source.toml", **options: object) -> Result:
        source = tmp_path / name
        source.write_text(text, encoding="utf-8", newline="")
        target = tmp_path / "result.yaml"
        conversion = convert(Request(source, target, force=True, **{"to": "ai-toolkit", **options}))  # type: ignore[arg-type]
        return Result(
            target, without_schema_line(target.read_text(encoding="utf-8")) if conversion.written else "", conversion
        )

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
