"""The tree that every format is read into and written from: values with their place and their comments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from leco_plugin.config.findings import Key

Value: TypeAlias = "str | int | float | bool | object | list[Node] | dict[str, Node] | None"
TEXTS = frozenset(
    {"target", "target_class", "positive", "negative", "unconditional", "neutral", "neutrals", "preserve"}
    | {"neutral_prompt_file", "prompt_file", "prompt", "neg_prompt", "action"}
)
"""Keys whose values are text, however they are spelled."""


@dataclass(slots=True)
class Node:
    """One value of a file: a scalar, a list or a table of nodes."""

    value: Value
    key: Key = ()
    """Where it stands in its source file."""
    line: int | None = None
    raw: str = ""
    """How YAML spells it, where that is neither quoted nor text: ``1.50`` or ``true``."""
    before: list[str] = field(default_factory=list)
    """Comments above it, each with its ``#``; an empty line between two comments is an empty text."""
    after: str = ""
    """Comment behind it."""
    left_out: bool = False
    """Has no counterpart in the result: written as a comment, so that no text is lost."""

    @property
    def table(self) -> dict[str, Node]:
        """The entries of a table; empty where this is none."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The items of a list; empty where this is none."""
        return self.value if isinstance(self.value, list) else []

    def like(self, value: Value) -> Node:
        """Another value in this one's place, with its comments."""
        return Node(value, self.key, self.line, "", self.before, self.after)

    def beside(self, value: Value) -> Node:
        """Another value that comes from this place, without its comments."""
        return Node(value, self.key, self.line)

    def omitted(self) -> Node:
        """The same value, to be written as a comment."""
        return replace(self, left_out=True)


@dataclass(frozen=True)
class Source:
    """A file that was read."""

    path: Path
    root: Node
    head: list[str] = field(default_factory=list)
    """Comments at the top that belong to the file as a whole."""
    tail: list[str] = field(default_factory=list)
    """Comments below the last value."""


def plain(node: Node | None) -> object:
    """Return the bare values, without what is left out; None where there is no node."""
    if node is None:
        return None
    if isinstance(node.value, dict):
        return {name: plain(child) for name, child in node.value.items() if not child.left_out}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value if not child.left_out]
    return node.value


def children(node: Node) -> list[Node]:
    """Return what stands in a table or a list."""
    return [*node.table.values(), *node.items]


def places(node: Node, key: Key = ()) -> Iterator[tuple[Key, Node]]:
    """Yield every node that is written, with its key in the result."""
    yield key, node
    below: list[tuple[str | int, Node]] = [(name, child) for name, child in node.table.items() if not child.left_out]
    below += enumerate(child for child in node.items if not child.left_out)
    for name, child in below:
        yield from places(child, (*key, name))


def comments(node: Node) -> list[str]:
    """Return the comments above, behind and inside a value."""
    return [*node.before, *([node.after] if node.after else []), *inner_comments(node)]


def inner_comments(node: Node) -> Iterator[str]:
    """Yield the comments inside a table or a list, in their order."""
    for child in children(node):
        yield from comments(child)


def has_comments(node: Node) -> bool:
    """Say whether there is a comment in a table or a list, or something that is to be one."""
    return any(child.left_out or child.before or child.after or has_comments(child) for child in children(node))
