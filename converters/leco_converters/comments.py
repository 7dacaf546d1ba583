"""Finds the comments of a YAML or TOML text and gives each to the value that it stands at.

The round-trip modes of ruamel.yaml and tomlkit do this too, but take several seconds for a file of one megabyte.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

from leco_converters.tree import Node

Span = tuple[int, int]
_BREAK = re.compile("[\n\x85\u2028\u2029]")
_TOML_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Comment:
    """One comment and where it stands."""

    at: int
    line: int
    text: str
    alone: bool
    """Nothing else stands in its line."""


def yaml_comments(text: str, scalars: Sequence[Span]) -> Iterator[Comment]:
    """Yield the comments of a YAML text; ``scalars`` are the spans, in order, where ``#`` is part of a value."""
    starts = [start for start, _ in scalars]
    at = text.find("#")
    while at >= 0:
        index = bisect.bisect_right(starts, at) - 1
        if index >= 0 and at < scalars[index][1]:
            at = text.find("#", scalars[index][1])
            continue
        end = at + 1
        if at == 0 or text[at - 1] in " \t\n\x85\u2028\u2029":
            end = _line_end(text, at)
            yield _comment(text, at, end)
        at = text.find("#", end)


def toml_comments(text: str) -> Iterator[Comment]:
    """Yield the comments of a text that is known to be valid TOML."""
    for match in _TOML_TOKEN.finditer(text):
        if match.group().startswith("#"):
            yield _comment(text, match.start(), match.end())


def attach(text: str, comments: Iterable[Comment], marks: Sequence[tuple[int, Node]]) -> tuple[list[str], list[str]]:
    """Give each comment to its value; return those of the file's head and tail.

    ``marks`` are the places where values begin, in the order of the text. A comment alone in its line belongs to the
    next value, one behind a value to that one.
    """
    starts = list(map(itemgetter(0), marks))
    head: list[str] = []
    tail: list[str] = []
    lines = _Lines(text)
    above: dict[int, list[Comment]] = {}
    for comment in comments:
        index = bisect.bisect_right(starts, comment.at) - 1
        if comment.alone or index < 0:
            above.setdefault(bisect.bisect_right(starts, comment.at), []).append(
                Comment(comment.at, lines.number(comment.at), comment.text, True)
            )
        else:
            node = marks[index][1]
            node.after = f"{node.after} {comment.text}".strip()
    for index, block in above.items():
        if index == len(marks):
            tail = _spaced(block, lines, None)
        elif index == 0:
            head, marks[0][1].before = _split(_spaced(block, lines, lines.number(starts[0])))
        else:
            marks[index][1].before = _spaced(block, lines, lines.number(starts[index]))
    return head, tail


class _Lines:
    """Line numbers of places in a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def number(self, at: int) -> int:
        return bisect.bisect_left(self._ends, at) + 1

    def blank(self, number: int) -> bool:
        """Say whether the line is empty; there is nothing above the first."""
        if not 1 <= number <= len(self._ends):
            return False
        start = self._ends[number - 2] + 1 if number > 1 else 0
        return not self._text[start : self._ends[number - 1]].strip()


def _spaced(block: Sequence[Comment], lines: _Lines, next_line: int | None) -> list[str]:
    """Return the texts of a block, with an empty one for each gap above, in and below it."""
    texts: list[str] = []
    last = block[0].line - 1 - lines.blank(block[0].line - 1)
    for comment in block:
        if comment.line > last + 1:
            texts.append("")
        texts.append(comment.text)
        last = comment.line
    if next_line is not None and lines.blank(last + 1):
        texts.append("")
    return texts


def _split(texts: list[str]) -> tuple[list[str], list[str]]:
    """Divide the first comments of a file at the last gap: those of the file, and those of its first value."""
    gaps = [index for index, text in enumerate(texts) if not text and index]
    return (texts[: gaps[-1]], texts[gaps[-1] + 1 :]) if gaps else ([], texts)


def _comment(text: str, at: int, end: int) -> Comment:
    start = text.rfind("\n", 0, at) + 1
    return Comment(at, 0, text[at:end].rstrip(), not text[start:at].strip())


def _line_end(text: str, at: int) -> int:
    # YAML ends a line at these too
    match = _BREAK.search(text, at)
    return match.start() if match else len(text)
