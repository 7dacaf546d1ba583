"""Reads a source file of any format into nodes with their comments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from leco_converters.comments import attach, toml_comments
from leco_converters.read_yaml import read_yaml
from leco_converters.tree import Node, Source
from leco_plugin.config.files import read_document, read_text
from leco_plugin.config.findings import Key

_YAML = (".yaml", ".yml")


def read_source(path: Path) -> Source:
    """Read YAML, TOML or JSON, as the ending says; raises ConfigError where it cannot be read."""
    if path.suffix.lower() in _YAML:
        return read_yaml(read_text(path), path)
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
