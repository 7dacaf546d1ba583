"""JSON text to a tree with the line of every key."""

from __future__ import annotations

import json
import re
from pathlib import Path

from leco_plugin.config.findings import Key, key_text
from leco_plugin.errors import ConfigError, Problem, Where

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


def parse(text: str, path: Path) -> tuple[object, dict[Key, int]]:
    """Return the values and the line of each key; raises ConfigError for what JSON does not allow."""

    def refuse_constant(name: str) -> object:
        raise ValueError(f"{name} is not a JSON number")

    try:
        tree: object = json.loads(text, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        raise _refuse(path, error.lineno, f"not valid JSON: {error.msg}") from None
    except RecursionError:
        raise _refuse(path, None, "nested too deeply") from None
    except ValueError as error:
        raise _refuse(path, None, f"not valid JSON: {error}") from None
    return tree, _lines(text, path)


def _lines(text: str, path: Path) -> dict[Key, int]:
    """Walk through text that is known to be valid; raises ConfigError where a key stands twice."""
    lines: dict[Key, int] = {}
    open_keys: list[str | int | None] = []
    line, at = 1, 0
    wants_key = False
    for match in _WORD.finditer(text):
        word = match.group()
        line, at = line + text.count("\n", at, match.start()), match.start()
        if wants_key and word.startswith('"'):
            open_keys[-1] = json.loads(word)
            _add(lines, _path(open_keys), line, path)
            wants_key = False
            continue
        starts_item = bool(open_keys) and isinstance(open_keys[-1], int) and word not in ",]}:"
        if starts_item:
            lines.setdefault(_path(open_keys), line)
        if word in "{[":
            open_keys.append(None if word == "{" else 0)
            wants_key = word == "{"
        elif word in "}]":
            open_keys.pop()
            wants_key = False
        elif word == ",":
            last = open_keys[-1]
            open_keys[-1] = last + 1 if isinstance(last, int) else None
            wants_key = open_keys[-1] is None
    return lines


def _path(open_keys: list[str | int | None]) -> Key:
    return tuple(key for key in open_keys if key is not None)


def _add(lines: dict[Key, int], key: Key, line: int, path: Path) -> None:
    if key in lines:
        where = Where(path, line, key_text(key))
        raise ConfigError(Problem(where, f"this key already stands in line {lines[key]}", "keep one of them"))
    lines[key] = line


def _refuse(path: Path, line: int | None, message: str) -> ConfigError:
    return ConfigError(Problem(Where(path, line), message, "correct the JSON, or write it as YAML or TOML"))
