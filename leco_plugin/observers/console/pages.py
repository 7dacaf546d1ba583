"""Results on the console: tables, lines, and a sign that something is being worked on."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

_LONGEST_NAME = 40


def folded(line: str, width: int) -> str:
    """``line`` broken between words, and as far indented from then on; a path stays whole, so that it can be copied."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


class Page:
    """Standard output, on a terminal or not."""

    def __init__(self) -> None:
        self._console = Console()

    def working(self, what: str) -> AbstractContextManager[object]:
        """Block during which ``what`` is shown to be under way."""
        return self._console.status(what)

    def section(self, title: str, rows: Sequence[Sequence[str]] = ()) -> None:
        """A title, and rows of cells below it; of several columns the first is a name, and what follows two is dim."""
        table = Table.grid(padding=(0, 2))
        for column in zip(*rows, strict=True):
            number = len(table.columns)
            style = "cyan" if number == 0 and len(rows[0]) > 1 else "dim" if number > 1 else None
            table.add_column(style=style, no_wrap=style == "cyan" and max(map(len, column)) < _LONGEST_NAME)
        for row in rows:
            table.add_row(*map(escape, row))
        self._console.print(f"[bold]{escape(title)}", soft_wrap=True)
        if rows:
            self._console.print(Padding(table, (0, 0, 1, 2)))

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Block with a bar on a terminal; it gives what is called with how much more of ``total`` is done."""
        columns = (TextColumn("[bold]{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        shown = self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=not shown) as bar:
            task = bar.add_task(what, total=total)
            yield lambda more: bar.advance(task, more)

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table with a title above it; the first column is a label, the others are numbers."""
        table = Table(title=title, title_justify="left", show_lines=any("\n" in cell for row in rows for cell in row))
        for number, column in enumerate(head):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def prose(self, lines: Iterable[str]) -> None:
        """Each line as soon as it is there, on a terminal broken between words where it is too long."""
        shown = self._console.is_terminal
        self.lines(folded(line, self._console.width) if shown else line for line in lines)

    def lines(self, lines: Iterable[str]) -> None:
        """Plain lines, never broken, so that paths and commands can be copied."""
        for line in lines:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
