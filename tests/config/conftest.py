"""What the tests of files share: writing one and reading it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from leco_plugin.config.build import LoadedPrompts, load_prompts
from leco_plugin.errors import ConfigError, Problem

ReadToml = Callable[[str], LoadedPrompts]
Refusals = Callable[..., tuple[Problem, ...]]


@pytest.fixture
def read_toml(tmp_path: Path) -> ReadToml:
    """Write a TOML text and load it as prompts."""

    def read(text: str) -> LoadedPrompts:
        path = tmp_path / "prompts.toml"
        path.write_text(text, encoding="utf-8")
        return load_prompts(path)

    return read


@pytest.fixture
def refusals(tmp_path: Path) -> Refusals:
    """Write a prompt file that must be refused, and return its problems."""

    def read(text: str | bytes, name: str = "prompts.toml") -> tuple[Problem, ...]:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(ConfigError) as caught:
            load_prompts(path)
        return caught.value.problems

    return read
