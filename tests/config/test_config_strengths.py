"""Strengths on the command line."""

from __future__ import annotations

import pytest

from leco_plugin.config.strengths import parse_strengths
from leco_plugin.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-2..2", (-2, -1, 0, 1, 2)),
        ("0..1:0.25", (0, 0.25, 0.5, 0.75, 1)),
        ("0..0.3:0.1", (0, 0.1, 0.2, 0.3)),
        ("1", (1,)),
        ("1, 0.5,-1,1", (-1, 0.5, 1)),
    ],
)
def test_ranges_and_lists(text: str, expected: tuple[float, ...]) -> None:
    """Ends belong to a range; a list is sorted, and each strength is there once."""
    assert parse_strengths(text) == expected


@pytest.mark.parametrize("text", ["", "a", "2..-2", "0..1:0", "0..1:-1", "nan", "0..inf", "0..1:0.001", "1..2..3"])
def test_anything_else_is_refused(text: str) -> None:
    """With what can be written."""
    with pytest.raises(ConfigError, match=r"write -2\.\.2"):
        parse_strengths(text)
