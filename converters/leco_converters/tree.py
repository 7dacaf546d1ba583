"""The tree that every format is read into and written from: values with their place and their comments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from leco_plugin.config.findings import Key, key_text
from leco_plugin.errors import ConfigError, Problem, Where

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
    path: Path | None = None
    """The file that it stands in; None where it comes from none."""
    raw: str = ""
    """How YAML spells it, where that is neither quoted nor text: ``1.50`` or ``true``."""
    before: list[str] = field(default_factory=list)
    """Comments above it, each with its ``#``; an empty line between two comments is an empty text."""
    after: str = ""
    """Comment behind it."""

    @property
    def table(self) -> dict[str, Node]:
        """The entries of a table; empty where this is none."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The items of a list; empty where this is none."""
        return self.value if isinstance(self.value, list) else []

    @property
    def children(self) -> list[Node]:
        """What stands in a table or a list."""
        return [*self.table.values(), *self.items]

    @property
    def around(self) -> list[str]:
        """The comments above and behind it."""
        return [*self.before, *([self.after] if self.after else [])]

    def at(self, *names: str) -> Node:
        """What stands below these keys; a node without a value where nothing does."""
        node = self
        for name in names:
            node = node.table.get(name) or Node(None)
        return node

    def like(self, value: Value) -> Node:
        """Another value in this one's place, with its comments."""
        return Node(value, self.key, self.line, self.path, "", self.before, self.after)

    def beside(self, value: Value) -> Node:
        """Another value that comes from this place, without its comments."""
        return Node(value, self.key, self.line, self.path)

    def where(self, file: Path) -> Where:
        """Its place, in ``file`` where it comes from none."""
        return Where(self.path or file, self.line, key_text(self.key))

    def refuse(self, message: str, fix: str) -> ConfigError:
        """Return the error that it cannot be meant."""
        return ConfigError(Problem(self.where(self.path or Path()), message, fix))


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
    """Return the bare values; None where there is no node."""
    if node is None or not isinstance(node.value, (dict, list)):
        return node and node.value
    if isinstance(node.value, dict):
        return {name: plain(child) for name, child in node.value.items()}
    return [plain(child) for child in node.value]


def places(node: Node, key: Key = ()) -> Iterator[tuple[Key, Node]]:
    """Yield every node with its key in the result."""
    yield key, node
    below: list[tuple[str | int, Node]] = [*node.table.items(), *enumerate(node.items)]
    for name, child in below:
        yield from places(child, (*key, name))


def comments(node: Node) -> list[str]:
    """Return the comments above, behind and inside a value."""
    return [*node.around, *(text for child in node.children for text in comments(child))]
