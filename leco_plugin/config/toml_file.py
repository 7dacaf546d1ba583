"""TOML text to a tree with the line of every key."""

from __future__ import annotations

import bisect
import re
import sys
from pathlib import Path

import toml

from leco_plugin.config.findings import Key
from leco_plugin.errors import ConfigError, Problem, Where

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}\n#]*")


def parse(text: str, path: Path) -> tuple[object, dict[Key, int]]:
    """Return the values and the line of each key; raises ConfigError for what is not TOML."""
    try:
        tree = tomllib.loads(text)
        return tree, _Scanner(text).scan()
    except tomllib.TOMLDecodeError as error:
        message, line = _plain(str(error), text)
        raise _refuse(path, line, message) from None
    except RecursionError:
        raise _refuse(path, None, "nested too deeply") from None
    except ValueError as error:
        raise _refuse(path, None, f"not valid TOML: {error}") from None


def sd_scripts_reading(text: str, tree: object) -> str:
    """Say how the parser of sd-scripts (`toml` 0.10) reads this text otherwise; empty where it does not."""
    try:
        other: object = toml.loads(text)
    except Exception as error:  # noqa: BLE001 - it fails on valid TOML in many ways, each of which is the answer
        reason = str(error).split(" (line")[0] or type(error).__name__
        return f"sd-scripts cannot read this file: {reason}"
    return "" if _same(other, tree) else "sd-scripts reads other values from this file"


def _same(left: object, right: object) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and (left == right or (left != left and right != right))


def _plain(message: str, text: str) -> tuple[str, int]:
    """Split the parser's message into what is wrong and the line."""
    found = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$", message)
    line = int(found.group(1)) if found and found.group(1) else text.count("\n") + 1
    reason = message[: found.start()] if found else message
    if reason.startswith(("Cannot overwrite", "Cannot declare")) or "twice" in reason:
        return "this key or table already stands above", line
    return f"not valid TOML: {reason[:1].lower()}{reason[1:]}", line


def _refuse(path: Path, line: int | None, message: str) -> ConfigError:
    fix = "text needs quotes, and every line reads key = value or [table]"
    return ConfigError(Problem(Where(path, line), message, fix))


class _Scanner:
    """Finds the lines of the keys in text that is known to be valid TOML."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._items: dict[Key, int] = {}
        self._lines: dict[Key, int] = {}

    def scan(self) -> dict[Key, int]:
        table: Key = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._peek() == "[":
                table = self._header()
            else:
                self._assignment(table)
            self._skip(_BLANK)
        return self._lines

    def _header(self) -> Key:
        """Read ``[a.b]`` or ``[[a.b]]`` and return the table that it opens."""
        line, brackets = self._line(), 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        names = self._key()
        self._at += brackets
        table: Key = ()
        for depth, name in enumerate(names, start=1):
            table = (*table, name)
            self._lines.setdefault(table, line)
            if brackets == 2 and depth == len(names):
                self._items[table] = self._items.get(table, 0) + 1
            if table in self._items:
                table = (*table, self._items[table] - 1)
        self._lines.setdefault(table, line)
        return table

    def _assignment(self, table: Key) -> None:
        line = self._line()
        for name in self._key():
            table = (*table, name)
            self._lines.setdefault(table, line)
        self._at += 1
        self._skip(_SPACE)
        self._value(table)

    def _key(self) -> list[str]:
        """Read a key with its dots and the blanks around it, up to ``=`` or ``]``."""
        names = []
        while True:
            self._skip(_SPACE)
            quoted = self._peek() in "\"'"
            raw = self._take(_STRING if quoted else _BARE_KEY)
            names.append(str(tomllib.loads(f"key = {raw}")["key"]) if quoted else raw)
            self._skip(_SPACE)
            if self._peek() != ".":
                return names
            self._at += 1

    def _value(self, key: Key) -> None:
        if self._peek() == "[":
            self._list(key)
        elif self._peek() == "{":
            self._inline_table(key)
        else:
            self._take(_STRING if self._peek() in "\"'" else _BARE_VALUE)

    def _list(self, key: Key) -> None:
        index = 0
        self._next()
        while self._peek() != "]":
            item = (*key, index)
            self._lines[item] = self._line()
            self._value(item)
            self._skip(_BLANK)
            if self._peek() == ",":
                self._next()
            index += 1
        self._at += 1

    def _inline_table(self, key: Key) -> None:
        self._next()
        while self._peek() != "}":
            self._assignment(key)
            self._skip(_BLANK)
            if self._peek() == ",":
                self._next()
        self._at += 1

    def _peek(self) -> str:
        if self._at >= len(self._text):
            raise ValueError("the text ends too early")
        return self._text[self._at]

    def _next(self) -> None:
        self._at += 1
        self._skip(_BLANK)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError("a key or value is not understood")
        self._at = match.end()
        return match.group()

    def _line(self) -> int:
        return bisect.bisect_left(self._newlines, self._at) + 1
