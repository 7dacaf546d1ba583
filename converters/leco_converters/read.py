"""Reads a source file of any format into nodes with their comments.

The values and their lines are those of `leco_plugin.config`. Comments are found by their place: ruamel.yaml drops those
in flow collections, behind tags and behind `?` keys when it reads, and tomlkit says no places.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from leco_converters.tree import Node, Source
from leco_plugin.config.files import Document, read_document
from leco_plugin.config.findings import Key

_TOML_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})' r"|'''.*?'''(?:'{0,2})" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'" r"|#[^\n]*",
    re.DOTALL,
)
_BREAK = re.compile("[\n\x85\u2028\u2029]|\\Z")
"""Where PyYAML, which reads the values, ends a line."""


def read_source(path: Path) -> Source:
    """Read YAML, TOML or JSON, as the ending says; raises ConfigError where it cannot be read."""
    document = read_document(path)
    text = document.text.removeprefix("\ufeff")
    nodes: dict[Key, Node] = {}
    root = _node(document.tree, (), document, nodes)
    if path.suffix.lower() == ".json":
        return Source(path, root)
    if path.suffix.lower() == ".toml":
        comments = [match.span() for match in _TOML_TOKEN.finditer(text) if match.group().startswith("#")]
    else:
        _spell(root, yaml.load(text, yaml.BaseLoader))  # noqa: S506 - makes nothing but texts, lists and tables
        comments = list(_yaml_comments(text))
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    # a mark is where the line of a value begins; tables of TOML may be written in pieces
    marks = [(starts[line - 1], nodes[key]) for key, line in document.lines.items() if key in nodes and key]
    marks.sort(key=lambda mark: mark[0])
    head, tail = _attach(text, comments, marks)
    return Source(path, root, head, tail)


def _node(value: object, key: Key, document: Document, nodes: dict[Key, Node]) -> Node:
    node = nodes[key] = Node(value, key, document.lines.get(key), document.path)
    if isinstance(value, dict):
        node.value = {str(name): _node(child, (*key, str(name)), document, nodes) for name, child in value.items()}
    elif isinstance(value, list):
        node.value = [_node(child, (*key, index), document, nodes) for index, child in enumerate(value)]
    return node


def _spell(node: Node, written: object) -> None:
    """Tell nodes how the file spells them; ``written`` is its tree with every value as text."""
    if isinstance(written, str):
        node.raw = "" if isinstance(node.value, str) else written
    elif isinstance(written, list):
        for item, below in zip(node.items, written, strict=False):
            _spell(item, below)
    elif isinstance(written, dict):
        for name, child in node.table.items():
            _spell(child, _entry(written, name))


def _entry(written: object, name: str) -> object:
    """Return an entry of a table, or of the first table that is merged into it and has one."""
    if isinstance(written, dict) and name in written:
        return written[name]
    merged = written.get("<<") if isinstance(written, dict) else None
    found = (_entry(table, name) for table in (merged if isinstance(merged, list) else [merged] if merged else []))
    return next((entry for entry in found if entry is not None), None)


def _yaml_comments(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of comments: ``#`` behind a blank that is in no scalar."""
    spans = [_span(text, token) for token in yaml.scan(text, yaml.SafeLoader) if isinstance(token, yaml.ScalarToken)]
    starts = [start for start, _ in spans]
    at = text.find("#")
    while at >= 0:
        index = bisect.bisect_right(starts, at) - 1
        end = at + 1
        if index >= 0 and at < spans[index][1]:
            end = spans[index][1]
        elif at == 0 or text[at - 1] in " \t\n\x85\u2028\u2029":
            found = _BREAK.search(text, at)
            end = found.start() if found else len(text)
            yield at, end
        at = text.find("#", end)


def _span(text: str, token: yaml.ScalarToken) -> tuple[int, int]:
    start, end = token.start_mark.index, token.end_mark.index
    # the header of a block may have a comment of its own
    return (max(text.find("\n", start, end), start) if token.style in ("|", ">") else start), end


def _attach(
    text: str, comments: Sequence[tuple[int, int]], marks: Sequence[tuple[int, Node]]
) -> tuple[list[str], list[str]]:
    """Give each comment to its value: one behind a value to that one, others to the next; return head and tail.

    An empty text stands for blank lines between comments, and between them and their value.
    """
    starts = [start for start, _ in marks]
    tail: list[str] = []
    for at, end in comments:
        line = text.rfind("\n", 0, at) + 1
        index = bisect.bisect_right(starts, at)
        if index and text[line:at].strip():
            node = marks[index - 1][1]
            node.after = f"{node.after} {text[at:end].rstrip()}".strip()
            continue
        block = marks[index][1].before if index < len(marks) else tail
        if re.search(r"\n[ \t]*\n\Z", text[max(line - 80, 0) : line]) and block[-1:] != [""]:
            block.append("")
        block.append(text[at:end].rstrip())
        if index < len(marks) and re.match(r"\n[ \t]*\n", text[end : end + 80]):
            block.append("")
    first = marks[0][1].before if marks else []
    gaps = [index for index, comment in enumerate(first) if not comment and index]
    head = first[: gaps[-1]] if gaps else []
    if gaps:
        marks[0][1].before = first[gaps[-1] + 1 :]
    return head, tail
