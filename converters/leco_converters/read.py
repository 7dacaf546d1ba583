"""Reads a source file of any format into nodes with their comments.

The values and their lines are those of `leco_plugin.config`. Comments are found by their place: ruamel.yaml drops those
in flow collections, behind tags and behind `?` keys when it reads, and tomlkit says no places.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from leco_converters.tree import Node, Source
from leco_plugin.config.editors import without_schema_line
from leco_plugin.config.files import Document, read_document
from leco_plugin.config.findings import Key
from leco_plugin.config.yaml_file import spellings

_TOML_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})' r"|'''.*?'''(?:'{0,2})" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'" r"|#[^\n]*",
    re.DOTALL,
)
_YAML_COMMENT = re.compile("(?<![^ \t\n\x85\u2028\u2029])#[^\n\x85\u2028\u2029]*")
"""Behind a blank, to the end of the line as PyYAML sees it, which reads the values."""


def read_source(path: Path) -> Source:
    """Read YAML, TOML or JSON, as the ending says; raises ConfigError where it cannot be read."""
    document, ending = read_document(path), path.suffix.lower()
    text = document.text.removeprefix("\ufeff")
    nodes: dict[Key, Node] = {}
    is_yaml = ending in (".yaml", ".yml")
    root = _node(document.tree, (), document, spellings(text, path) if is_yaml else {}, nodes)
    if ending == ".json":
        return Source(path, root)
    tokens = [match.span() for match in _TOML_TOKEN.finditer(text) if match.group().startswith("#")]
    comments = list(_yaml_comments(text)) if is_yaml else tokens
    # that a file of ours names its schema is said anew where it is written
    comments = comments[1:] if without_schema_line(text) != text else comments
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    # a mark is where the line of a value begins; tables of TOML may be written in pieces
    marks = [(starts[line - 1], nodes[key]) for key, line in document.lines.items() if key in nodes and key]
    marks.sort(key=lambda mark: mark[0])
    head, tail = _attach(text, comments, marks)
    return Source(path, root, head, tail)


def _node(value: object, key: Key, document: Document, spelled: Mapping[Key, str], nodes: dict[Key, Node]) -> Node:
    node = nodes[key] = Node(value, key, document.lines.get(key), document.path, spelled.get(key, ""))
    if isinstance(value, dict):
        node.value = {
            str(name): _node(child, (*key, str(name)), document, spelled, nodes) for name, child in value.items()
        }
    elif isinstance(value, list):
        node.value = [_node(child, (*key, index), document, spelled, nodes) for index, child in enumerate(value)]
    return node


def _yaml_comments(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of comments between scalars."""
    start = 0
    for token in (*yaml.scan(text, yaml.SafeLoader), None):
        if token is None or isinstance(token, yaml.ScalarToken):
            begin, end = (token.start_mark.index, token.end_mark.index) if token else (len(text), len(text))
            if token and token.style in ("|", ">"):
                # the header of a block may have a comment of its own
                begin = max(text.find("\n", begin, end), begin)
            yield from (match.span() for match in _YAML_COMMENT.finditer(text, start, begin))
            start = end


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
