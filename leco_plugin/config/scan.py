"""The line of every key in text that a parser has already taken for valid TOML or JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from leco_plugin.config.findings import Key

_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'"
    r"|#[^\n]*"
    r"|[\[\]{}=:,\n]"
    r"|[^\s\[\]{}=:,#\"']+",
    re.DOTALL,
)
_ENDS = (",", "]", "}", "\n", "")


class Scanner:
    """Walks through the text once; ``names`` reads a key as it is written, with its dots.

    Raises ValueError where the text is not what it was taken for.
    """

    def __init__(self, text: str, names: Callable[[str], list[str]]) -> None:
        self._names = names
        self._tokens = _tokens(text)
        self._items: dict[Key, int] = {}
        self.lines: dict[Key, int] = {}
        self.repeated: list[tuple[Key, int]] = []
        """Keys that stand twice in one table between braces, and the line of the second."""
        self._next()

    def toml(self) -> dict[Key, int]:
        """The lines of a TOML text."""
        table: Key = ()
        self._skip()
        while self._word:
            if self._word == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip()
        return self.lines

    def json(self) -> dict[Key, int]:
        """The lines of a JSON text."""
        self._skip()
        self._value(())
        return self.lines

    def _header(self) -> Key:
        """Read ``[a.b]`` or ``[[a.b]]`` and return the table that it opens."""
        line = self._line
        self._next()
        many = self._word == "["
        if many:
            self._next()
        names = self._key("]")
        table: Key = ()
        for depth, name in enumerate(names, start=1):
            table = (*table, name)
            self.lines.setdefault(table, line)
            if many and depth == len(names):
                self._items[table] = self._items.get(table, -1) + 1
            if table in self._items:
                table = (*table, self._items[table])
        self.lines.setdefault(table, line)
        for _ in range(2 if many else 1):
            self._next()
        return table

    def _pair(self, key: Key) -> None:
        line = self._line
        for name in self._key("=", ":"):
            key = (*key, name)
            if key in self.lines:
                self.repeated.append((key, line))
            self.lines.setdefault(key, line)
        self._next()
        self._skip()
        self._value(key)

    def _key(self, *ends: str) -> list[str]:
        written = ""
        while self._word not in ends:
            written += self._word
            self._next(needed=True)
        return self._names(written)

    def _value(self, key: Key) -> None:
        if self._word == "[":
            for index, _ in enumerate(self._inside("]")):
                self.lines[(*key, index)] = self._line
                self._value((*key, index))
        elif self._word == "{":
            for _ in self._inside("}"):
                self._pair(key)
        else:
            while self._word not in _ENDS:
                self._next()

    def _inside(self, end: str) -> Iterator[None]:
        """Stand before each item between brackets."""
        self._next()
        self._skip()
        while self._word != end:
            if not self._word:
                raise ValueError("the text ends too early")
            yield
            self._skip()
            if self._word == ",":
                self._next()
                self._skip()
        self._next()

    def _skip(self) -> None:
        while self._word == "\n":
            self._next()

    def _next(self, *, needed: bool = False) -> None:
        self._word, self._line = next(self._tokens)
        if needed and not self._word:
            raise ValueError("the text ends too early")


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Words, brackets and ends of lines with their lines; comments are left out, and the end is empty for ever."""
    line, at = 1, 0
    for match in _TOKEN.finditer(text):
        line, at = line + text.count("\n", at, match.start()), match.start()
        if not match.group().startswith("#"):
            yield match.group(), line
    while True:
        yield "", line
