"""TOML text to a tree with the line of every key."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import toml

from leco_plugin.config.findings import Key, refusal
from leco_plugin.config.scan import Scanner

if sys.version_info >= (3, 11):
    import tomllib as tomllib
else:
    import tomli as tomllib

_FIX = "text needs quotes, and every line reads key = value or [table]"


def parse(text: str, path: Path) -> tuple[object, dict[Key, int]]:
    """Return the values and the line of each key; raises ConfigError for what is not TOML."""
    try:
        tree = tomllib.loads(text)
        return tree, Scanner(text, _names).toml()
    except tomllib.TOMLDecodeError as error:
        message, line = _plain(str(error), text)
        raise refusal(path, message, _FIX, line) from None
    except RecursionError:
        raise refusal(path, "nested too deeply", _FIX) from None
    except ValueError as error:
        raise refusal(path, f"not valid TOML: {error}", _FIX) from None


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


def _names(written: str) -> list[str]:
    """The names of a key with dots."""
    names, below = [], tomllib.loads(f"{written} = 0")
    while isinstance(below, dict):
        ((name, below),) = below.items()
        names.append(name)
    return names
