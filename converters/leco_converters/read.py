"""Reads a source file of any format into nodes with their comments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from leco_converters.comments import attach, toml_comments
from leco_converters.read_yaml import read_yaml
from leco_converters.tree import Node, Source
from leco_plugin.config.files import read_document
from leco_plugin.config.findings import Key
from leco_plugin.errors import ConfigError, Problem, Where

_LARGEST = 4 * 1024 * 1024
_YAML = (".yaml", ".yml")


def read_source(path: Path) -> Source:
    """Read YAML, TOML or JSON, as the ending says; raises ConfigError where it cannot be read."""
    if path.suffix.lower() in _YAML:
        return read_yaml(_read_text(path), path)
    document = read_document(path)
    marks: list[tuple[int, Node]] = []
    text = document.text.removeprefix("\ufeff")
    root = _node(document.tree, (), document.lines)
    if path.suffix.lower() != ".toml":
        return Source(path, root)
    starts = _line_starts(text)
    nodes = dict(_by_key(root))
    marks = [(starts[line - 1], nodes[key]) for key, line in document.lines.items() if key in nodes]
    # tables may be written in pieces; the file's order is that of the lines
    marks.sort(key=lambda mark: mark[0])
    head, tail = attach(text, toml_comments(text), marks)
    return Source(path, root, head, tail)


def _node(value: object, key: Key, lines: Mapping[Key, int]) -> Node:
    node = Node(value, key, lines.get(key))
    if isinstance(value, dict):
        node.value = {str(name): _node(child, (*key, str(name)), lines) for name, child in value.items()}
    elif isinstance(value, list):
        node.value = [_node(child, (*key, index), lines) for index, child in enumerate(value)]
    return node


def _by_key(node: Node) -> list[tuple[Key, Node]]:
    below = [*node.table.values(), *node.items]
    return [(node.key, node), *(pair for child in below for pair in _by_key(child))]


def _line_starts(text: str) -> list[int]:
    starts = [0]
    at = text.find("\n")
    while at >= 0:
        starts.append(at + 1)
        at = text.find("\n", at + 1)
    return starts


def _read_text(path: Path) -> str:
    """Return the text of a settings file, with newlines as line ends; raises ConfigError."""
    try:
        if not path.is_file():
            found = "this is a folder, not a file" if path.is_dir() else "there is no such file"
            raise _refuse(path, found, "check the spelling and the folder it is in")
        if path.stat().st_size > _LARGEST:
            raise _refuse(path, f"larger than {_LARGEST} bytes, so it is not a settings file", "check the path")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _refuse(path, f"cannot be read: {reason}", "check the path and its permissions") from None
    try:
        if b"\0" in data:
            raise _refuse(path, "there is a NUL byte, so this is not UTF-8 text", "save it as UTF-8")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _refuse(path, "the text is not UTF-8", "save it as UTF-8", line) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refuse(path: Path, message: str, fix: str, line: int | None = None) -> ConfigError:
    return ConfigError(Problem(Where(path, line), message, fix))
