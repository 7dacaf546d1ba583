"""Reads a source file of any format into nodes with their comments.

The values and their lines are those of `leco_plugin.config`. Comments are found by their place: ruamel.yaml drops those
in flow collections, behind tags and behind `?` keys when it reads, and tomlkit says no places.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from leco_converters.tree import Node, Source
from leco_plugin.config.files import read_document
from leco_plugin.config.findings import Key

_BREAK = re.compile("[\n\x85\u2028\u2029]")
"""Where PyYAML, which reads the values, ends a line."""
_TOML_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})' r"|'''.*?'''(?:'{0,2})" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'" r"|#[^\n]*",
    re.DOTALL,
)
_MERGE = "tag:yaml.org,2002:merge"


def read_source(path: Path) -> Source:
    """Read YAML, TOML or JSON, as the ending says; raises ConfigError where it cannot be read."""
    document = read_document(path)
    text = document.text.removeprefix("\ufeff")
    nodes: dict[Key, Node] = {}
    root = _node(document.tree, (), document.lines, nodes)
    if path.suffix.lower() == ".json":
        return Source(path, root)
    if path.suffix.lower() == ".toml":
        starts = [0, *(match.end() for match in re.finditer("\n", text))]
        marks = [(starts[line - 1], nodes[key]) for key, line in document.lines.items() if key in nodes]
        comments = [match.span() for match in _TOML_TOKEN.finditer(text) if match.group().startswith("#")]
    else:
        written = _Written(text, nodes)
        composed = yaml.compose(text, yaml.SafeLoader)
        if composed is not None:
            written.value(composed, (), None, fresh=True)
        marks, comments = written.marks, list(_yaml_comments(text, sorted(written.scalars)))
    # tables of TOML may be written in pieces
    marks.sort(key=lambda mark: mark[0])
    head, tail = _attach(text, comments, marks)
    return Source(path, root, head, tail)


def _node(value: object, key: Key, lines: Mapping[Key, int], nodes: dict[Key, Node]) -> Node:
    node = nodes[key] = Node(value, key, lines.get(key))
    if isinstance(value, dict):
        node.value = {str(name): _node(child, (*key, str(name)), lines, nodes) for name, child in value.items()}
    elif isinstance(value, list):
        node.value = [_node(child, (*key, index), lines, nodes) for index, child in enumerate(value)]
    return node


@dataclass
class _Written:
    """How a YAML text spells its values, and where they begin."""

    text: str
    nodes: Mapping[Key, Node]
    marks: list[tuple[int, Node]] = field(default_factory=list)
    scalars: list[tuple[int, int]] = field(default_factory=list)
    """Spans in which ``#`` is part of a value."""
    _seen: set[int] = field(default_factory=set)
    _spelled: set[Key] = field(default_factory=set)

    def value(self, node: yaml.Node, key: Key, at: int | None, *, fresh: bool) -> None:
        """Take in a value that begins ``at`` this place, or where it is written; ``fresh``: no alias led here."""
        again = id(node) in self._seen
        self._seen.add(id(node))
        if fresh and key in self.nodes and not (again and at is None):
            self.marks.append((node.start_mark.index if at is None else at, self.nodes[key]))
        fresh = fresh and not again
        if isinstance(node, yaml.MappingNode):
            self._table(node, key, fresh)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.value(item, (*key, index), None, fresh=fresh)
        elif isinstance(node, yaml.ScalarNode):
            self._scalar(node, key, fresh)

    def _table(self, node: yaml.MappingNode, key: Key, fresh: bool) -> None:
        merged: list[yaml.Node] = []
        for name, child in node.value:
            if fresh:
                self.scalars.append(self._span(name))
            if name.tag == _MERGE:
                merged += child.value if isinstance(child, yaml.SequenceNode) else [child]
            else:
                self.value(child, (*key, str(name.value)), name.start_mark.index, fresh=fresh)
        for source in merged:
            if isinstance(source, yaml.MappingNode):
                self.value(source, key, None, fresh=False)

    def _scalar(self, node: yaml.ScalarNode, key: Key, fresh: bool) -> None:
        if fresh:
            self.scalars.append(self._span(node))
        # a table's own keys are spelled before those that are merged into it
        if key in self.nodes and key not in self._spelled and not isinstance(self.nodes[key].value, str):
            self.nodes[key].raw = node.value
        self._spelled.add(key)

    def _span(self, node: yaml.Node) -> tuple[int, int]:
        start, end = node.start_mark.index, node.end_mark.index
        if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
            # the header of a block may have a comment of its own
            start = max(self.text.find("\n", start, end), start)
        return start, end


def _yaml_comments(text: str, scalars: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    starts = [start for start, _ in scalars]
    at = text.find("#")
    while at >= 0:
        index = bisect.bisect_right(starts, at) - 1
        end = at + 1
        if index >= 0 and at < scalars[index][1]:
            end = scalars[index][1]
        elif at == 0 or text[at - 1] in " \t\n\x85\u2028\u2029":
            found = _BREAK.search(text, at)
            end = found.start() if found else len(text)
            yield at, end
        at = text.find("#", end)


def _attach(
    text: str, comments: Iterable[tuple[int, int]], marks: Sequence[tuple[int, Node]]
) -> tuple[list[str], list[str]]:
    """Give each comment to its value: one behind a value to that one, others to the next; return head and tail.

    An empty text stands for blank lines between comments, and between them and their value.
    """
    starts = [start for start, _ in marks]
    tail: list[str] = []
    for at, end in comments:
        line = text.rfind("\n", 0, at) + 1
        comment = text[at:end].rstrip()
        index = bisect.bisect_right(starts, at)
        if index and text[line:at].strip():
            node = marks[index - 1][1]
            node.after = f"{node.after} {comment}".strip()
            continue
        block = marks[index][1].before if index < len(marks) else tail
        if _is_blank(text, text.rfind("\n", 0, max(line - 1, 0)) + 1, line - 1) and block[-1:] != [""]:
            block.append("")
        block.append(comment)
        if _is_blank(text, end + 1, text.find("\n", end + 1)) and index < len(marks):
            block.append("")
    first = marks[0][1].before if marks else []
    gaps = [index for index, comment in enumerate(first) if not comment and index]
    head = first[: gaps[-1]] if gaps else []
    if gaps:
        marks[0][1].before = first[gaps[-1] + 1 :]
    return head, tail


def _is_blank(text: str, start: int, end: int) -> bool:
    """Say whether the line from ``start`` to ``end`` is there and empty."""
    return 0 <= start <= end and not text[start:end].strip()
