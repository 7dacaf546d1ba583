"""JSON text to a tree with the line of every key."""

from __future__ import annotations

import json
from pathlib import Path

from leco_plugin.config.findings import Key, refusal
from leco_plugin.config.scan import Scanner

_FIX = "correct the JSON, or write it as YAML or TOML"


def parse(text: str, path: Path) -> tuple[object, dict[Key, int]]:
    """Return the values and the line of each key; raises ConfigError for what JSON does not allow."""

    def refuse_constant(name: str) -> object:
        raise ValueError(f"{name} is not a JSON number")

    try:
        tree: object = json.loads(text, parse_constant=refuse_constant)
        scanner = Scanner(text, lambda written: [json.loads(written)])
        lines = scanner.json()
    except json.JSONDecodeError as error:
        raise refusal(path, f"not valid JSON: {error.msg}", _FIX, error.lineno) from None
    except RecursionError:
        raise refusal(path, "nested too deeply", _FIX) from None
    except ValueError as error:
        raise refusal(path, f"not valid JSON: {error}", _FIX) from None
    for key, line in scanner.repeated:
        raise refusal(path, f"this key already stands in line {lines[key]}", "keep one of them", line, key)
    return tree, lines
