"""YAML text to nodes, fast: PyYAML's events, read by libyaml where it is there.

The rules are those of `leco_plugin.config.yaml_file`: scalars of YAML 1.2, no tags that make objects, no key twice,
aliases and merge keys within bounds. That reader keeps the values only, and takes seconds for a large file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from leco_converters.comments import Span, attach, yaml_comments
from leco_converters.tree import Node, Source
from leco_plugin.config import yaml_file
from leco_plugin.config.findings import Key, key_text
from leco_plugin.errors import ConfigError, Problem, Where

_MOST_VALUES = 400_000
_DEEPEST = 50
_LARGEST_SECOND_READING = 200_000
_TAG = "tag:yaml.org,2002:"
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str, path: Path) -> Source:
    """Read one document; raises ConfigError for what is not safe YAML."""
    # libyaml refuses escaped character pairs that PyYAML joins, and words its errors otherwise
    loaders = [_Loader, yaml.SafeLoader] if len(text) < _LARGEST_SECOND_READING else [_Loader]
    refused = yaml.YAMLError()
    for loader in loaders:
        try:
            return _read(text, path, loader)
        except yaml.YAMLError as error:
            refused = error
    raise _not_yaml(refused, path)


def _read(text: str, path: Path, loader: type) -> Source:
    builder = _Builder(path)
    events: Iterator[yaml.Event] = yaml.parse(text, Loader=loader)
    for event in events:
        builder.take(event)
    spans = [_content(text, event) for event in builder.scalars]
    head, tail = attach(text, yaml_comments(text, spans), builder.marks)
    return Source(path, builder.root, head, tail)


@dataclass
class _Open:
    """A list or table whose end is still to come."""

    node: Node
    anchor: str | None
    size: int
    """Values counted when it began."""
    name: str | None = None
    """Key of a table whose value is next."""
    merge: bool = False
    name_line: int = 0
    merged: list[tuple[Node, yaml.Event]] = field(default_factory=list)


class _Builder:
    """Makes nodes of events, and notes where each begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = Node(None)
        self.marks: list[tuple[int, Node]] = []
        self.scalars: list[yaml.ScalarEvent] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._count = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self.scalars.append(event)
            self._scalar(event)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._start(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._refuse(event, "not valid YAML: there is a second document after '---'", "keep one of them")

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        top = self._open[-1] if self._open else None
        if top is not None and isinstance(top.node.value, dict) and top.name is None and not top.merge:
            self._name(event, top, top.node.value)
            return
        value, raw = self._value(event)
        node = Node(value, self._key(), _line(event), raw)
        self._place(event, node)
        self._remember(event.anchor, node, self._count - 1)

    def _name(self, event: yaml.ScalarEvent, top: _Open, entries: dict[str, Node]) -> None:
        top.name_line = _line(event)
        if event.value == "<<" and event.implicit[0]:
            top.merge = True
            return
        name = _joined(event.value)
        if name in entries:
            message = f"this key already stands in line {entries[name].line}"
            raise self._refuse(event, message, "keep one of them", (*top.node.key, name))
        top.name = name
        entries[name] = Node(None)
        self.marks.append((_start(event), entries[name]))

    def _start(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
        if event.tag not in (None, "!", f"{_TAG}{kind}"):
            raise self._refuse(event, f"the tag {_short(event.tag)} is not allowed here", "remove the tag")
        top = self._open[-1] if self._open else None
        if top is not None and isinstance(top.node.value, dict) and top.name is None and not top.merge:
            raise self._refuse(event, "a key has to be one word", "write the key as text")
        if len(self._open) >= _DEEPEST:
            raise self._refuse(event, "nested too deeply", "write the values out")
        node = Node({} if kind == "map" else [], self._key(), _line(event))
        node = self._place(event, node)
        if event.anchor:
            self._anchors.pop(event.anchor, None)
        self._open.append(_Open(node, event.anchor, self._count - 1))

    def _end(self) -> None:
        done = self._open.pop()
        for node, event in done.merged:
            self._merge(done.node.table, node, event)
        self._remember(done.anchor, done.node, done.size)

    def _alias(self, event: yaml.AliasEvent) -> None:
        if event.anchor not in self._anchors:
            message = f"the alias *{event.anchor} stands for nothing, or contains itself"
            raise self._refuse(event, message, "write the values out")
        node, size = self._anchors[event.anchor]
        top = self._open[-1] if self._open else None
        if top is not None and isinstance(top.node.value, dict) and top.name is None and not top.merge:
            raise self._refuse(event, "a key has to be one word", "write the key as text")
        self._add(event, size)
        self._place(event, Node(node.value, self._key(), _line(event), node.raw))

    def _place(self, event: yaml.Event, node: Node) -> Node:
        """Put a value where it belongs; returns the node that holds it there."""
        self._add(event, 1)
        if not self._open:
            self.root = node
            return node
        top = self._open[-1]
        if isinstance(top.node.value, list):
            top.node.value.append(node)
            self.marks.append((_start(event), node))
            return node
        if top.merge:
            top.merge = False
            top.merged.append((node, event))
            return node
        entry = top.node.table[top.name or ""]
        entry.value, entry.key, entry.line, entry.raw = node.value, node.key, top.name_line, node.raw
        top.name = None
        return entry

    def _merge(self, entries: dict[str, Node], node: Node, event: yaml.Event) -> None:
        """Add the entries of a merged table, which its own keys and those merged before it win over."""
        for source in node.items or [node]:
            if not isinstance(source.value, dict):
                message = "only a table, or a list of tables, can be merged with <<"
                raise self._refuse(event, message, "write the values out")
            self._add(event, len(source.value))
            for name, child in source.value.items():
                entries.setdefault(name, Node(child.value, child.key, child.line, child.raw))

    def _remember(self, anchor: str | None, node: Node, size: int) -> None:
        if anchor:
            self._anchors[anchor] = (node, self._count - size)

    def _add(self, event: yaml.Event, size: int) -> None:
        self._count += size
        if self._count > _MOST_VALUES:
            message = f"more than {_MOST_VALUES} values once its aliases are followed"
            raise self._refuse(event, message, "write the values out")

    def _value(self, event: yaml.ScalarEvent) -> tuple[object, str]:
        """Return the value of a scalar, and its spelling where that matters."""
        tag = event.tag
        if tag in (None, "!") and not event.implicit[0]:
            return _joined(event.value), ""
        if tag in ("!", f"{_TAG}str"):
            return _joined(event.value), ""
        if tag is not None and tag.removeprefix(_TAG) not in _TYPES:
            raise self._refuse(event, f"the tag {_short(tag)} is not allowed here", "remove the tag")
        try:
            value = yaml_file.scalar(event.value) if event.value else None
        except ValueError:
            raise self._refuse(event, "this number has too many digits", "write a smaller number") from None
        if tag is not None and type(value) not in _TYPES[tag.removeprefix(_TAG)]:
            raise self._refuse(event, f"'{event.value}' is not what the tag {_short(tag)} says", "remove the tag")
        return (_joined(value), "") if isinstance(value, str) else (value, event.value)

    def _key(self) -> Key:
        if not self._open:
            return ()
        top = self._open[-1]
        return (*top.node.key, len(top.node.value) if isinstance(top.node.value, list) else top.name or "<<")

    def _refuse(self, event: yaml.Event, message: str, fix: str, key: Key | None = None) -> ConfigError:
        where = Where(self.path, _line(event), key_text(self._key() if key is None else key))
        return ConfigError(Problem(where, message, fix))


def _start(event: yaml.Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.index


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


def _content(text: str, event: yaml.ScalarEvent) -> Span:
    """Where ``#`` is part of the value; the header of a block scalar may have a comment of its own."""
    assert event.end_mark is not None
    start, end = _start(event), event.end_mark.index
    if event.style in ("|", ">"):
        header_end = text.find("\n", start)
        start = end if header_end < 0 else header_end
    return start, end


def _joined(value: str) -> str:
    # PyYAML reads an escaped character beyond U+FFFF, as JSON writes it, as two halves
    return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _short(tag: str | None) -> str:
    return re.sub(f"^{re.escape(_TAG)}", "!!", tag or "")


def _not_yaml(error: yaml.YAMLError, path: Path) -> ConfigError:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    reason = (error.problem or error.context) if isinstance(error, yaml.MarkedYAMLError) else str(error).split("\n")[0]
    where = Where(path, mark.line + 1 if mark else None)
    return ConfigError(Problem(where, f"not valid YAML: {reason}", "correct the YAML in or above this line"))
