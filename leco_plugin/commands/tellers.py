"""Who tells what `leco check` finds, and how much of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO, TypeAlias

from leco_plugin.streams import write_lines

if TYPE_CHECKING:
    from leco_plugin.observers.console.pages import Page

Rows = Sequence[Sequence[str]]
Teller: TypeAlias = "Plain | Page"
"""The second draws on a terminal, and is imported where there is one."""


class Plain:
    """Tells it in plain lines, for a pipe or a file."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def section(self, title: str, rows: Rows = ()) -> None:
        """A title and its rows, in columns."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        cells = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        write_lines(self._out, (title, *(f"  {row}".rstrip() for row in cells)))

    def prose(self, lines: Iterable[str]) -> None:
        """Each line as soon as it is there."""
        for line in lines:
            write_lines(self._out, [line])
            self._out.flush()

    def working(self, what: str) -> AbstractContextManager[object]:
        """Nothing is to be seen of it."""
        return nullcontext()


@dataclass(frozen=True)
class Ways:
    """How much is told, and in what form."""

    json: bool = False
    estimate: bool = True
    """Tell memory and time, too."""
    everything: bool = False
    """Tell every pair and every option."""
