"""JSON text to a tree with the line of every key."""

from __future__ import annotations

import json
from pathlib import Path

from leco_plugin.config.findings import Key, key_text
from leco_plugin.config.scan import Scanner
from leco_plugin.errors import ConfigError, Problem, Where


def parse(text: str, path: Path) -> tuple[object, dict[Key, int]]:
    """Return the values and the line of each key; raises ConfigError for what JSON does not allow."""

    def refuse_constant(name: str) -> object:
        raise ValueError(f"{name} is not a JSON number")

    try:
        tree: object = json.loads(text, parse_constant=refuse_constant)
        scanner = Scanner(text, lambda written: [json.loads(written)])
        lines = scanner.json()
    except json.JSONDecodeError as error:
        raise _refuse(path, error.lineno, f"not valid JSON: {error.msg}") from None
    except RecursionError:
        raise _refuse(path, None, "nested too deeply") from None
    except ValueError as error:
        raise _refuse(path, None, f"not valid JSON: {error}") from None
    for key, line in scanner.repeated:
        where = Where(path, line, key_text(key))
        raise ConfigError(Problem(where, f"this key already stands in line {lines[key]}", "keep one of them"))
    return tree, lines


def _refuse(path: Path, line: int | None, message: str) -> ConfigError:
    return ConfigError(Problem(Where(path, line), message, "correct the JSON, or write it as YAML or TOML"))
