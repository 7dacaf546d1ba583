"""Writes nodes as TOML that both `tomllib` and the `toml` of sd-scripts read alike.

`toml` 0.10 misreads some valid TOML: a text that is one quote, or an item of a list that begins with a comma. Each
text that may be of that kind is tried on it, and spelled another way where it fails.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import tomlkit
from tomlkit.items import AoT, Item, Table

from leco_converters.tree import Node, comments, plain
from leco_converters.write_yaml import comment_lines
from leco_plugin.config.toml_file import sd_scripts_reading
from leco_plugin.errors import ConfigError

_SAFE = re.compile("[^\"'\\\\\x00-\x1f\x7f]*\\Z")
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
_PLAIN_COMMENT = re.compile(r"[#A-Za-z0-9 .:;()/+-]*\Z")
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z")
_WIDTH = 110


def write_toml(root: Node, head: Sequence[str] = (), tail: Sequence[str] = ()) -> str:
    """Return the text of a prompt file; raises ConfigError for a text that `toml` cannot be made to read."""
    document = tomlkit.document()
    below: list[str] = []
    _fill(document, root, below)
    lines = [*comment_lines(head), *([""] if head else []), tomlkit.dumps(document).rstrip("\n")]
    return "\n".join([*lines, *below, *comment_lines(tail)]).strip("\n") + "\n"


def text(value: str) -> str:
    """Return a text as a TOML string."""
    if _SAFE.match(value):
        return f'"{value}"'
    for spelled in _spellings(value):
        if _reads_alike(f"x = {spelled}\n", {"x": value}):
            return spelled
    raise ConfigError(f"sd-scripts cannot read the text {value[:40]!a} in any spelling", fix="change the prompt")


def _fill(table: tomlkit.TOMLDocument | Table, node: Node, below: list[str]) -> None:
    """Put in single values first, as TOML wants, then tables; ``below`` takes the comments behind the last entry."""
    above = below
    tables = {name: child for name, child in node.table.items() if not _is_value(child)}
    for name, child in node.table.items():
        if name not in tables:
            behind = _behind(child)
            # `toml` misreads comments inside a list
            inside = [text for item in child.items for text in comments(item) if text]
            above += comment_lines([*(child.before if behind else child.around), *inside])
            table.append(name, _with_comments(tomlkit.value(_value(child)), above, behind))
    for name, child in tables.items():
        if isinstance(child.value, dict):
            table.append(name, _below(child, above))
        else:
            above += comment_lines(child.around)
            listed = AoT([])
            for item in child.items:
                listed.append(_below(item, above))
            table.append(name, listed)


def _below(node: Node, above: list[str]) -> Table:
    """Return a table of its own with what stands above it; ``above`` then has what stands behind its last entry."""
    made, lines = tomlkit.table(), [*above, *comment_lines(node.around)]
    above.clear()
    _fill(made, node, above)
    # last: tomlkit indents what is put into a table as the table is
    _with_comments(made, ["", *itertools.dropwhile(lambda line: not line, lines)], "")
    return made


def _with_comments(item: Item, above: list[str], behind: str) -> Item:
    item.trivia.indent = "".join(f"{line}\n" for line in above)
    item.trivia.comment_ws, item.trivia.comment = "  " if behind else "", behind
    above.clear()
    return item


def _behind(node: Node) -> str:
    """Return the comment behind a value, where `toml` is not irritated by it."""
    (comment,) = comment_lines([node.after])
    alike = _PLAIN_COMMENT.match(comment) or _reads_alike(f"x = {_value(node)}  {comment}\n", {"x": plain(node)})
    return comment if alike else ""


def _value(node: Node) -> str:
    value = node.value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return node.raw if _NUMBER.match(node.raw) else repr(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return _list(node)
    raise TypeError(f"{type(value).__name__} has no place in a prompt file")


def _list(node: Node) -> str:
    """Return a list on one line, or where that is too wide with an item in each."""
    if not all(isinstance(item.value, str) for item in node.items):
        return f"[{', '.join(map(_value, node.items))}]"
    values = [str(item.value) for item in node.items]
    spellings = [list(_spellings(value)) for value in values]
    # every text in the same spelling, and else each in the first that stands any neighbour
    for spelled in (*zip(*spellings, strict=True), [_in_list(value) for value in values]):
        wide = sum(map(len, spelled)) > _WIDTH
        written = "[\n    " + ",\n    ".join(spelled) + ",\n]" if wide else f"[{', '.join(spelled)}]"
        if _reads_alike(f"x = {written}\n", {"x": values}):
            return written
    shown = ascii(values)[:40]
    raise ConfigError(f"sd-scripts cannot read the list {shown} in any spelling", fix="write one entry per text")


def _in_list(value: str) -> str:
    for spelled in _spellings(value):
        lists = {f"x = [{spelled}]\n": [value], f'x = [{spelled}, "b"]\n': [value, "b"]}
        if all(_reads_alike(text, {"x": items}) for text, items in lists.items()):
            return spelled
    return _escaped(value)


def _spellings(value: str) -> Iterator[str]:
    """Yield the ways to write a text of which one is always read, the plainest first."""
    yield _escaped(value)
    yield _escaped(value) if re.search("['\x00-\x1f\x7f]", value) else f"'{value}'"
    yield _escaped(value, value.replace("\\", ""))
    yield f'"""\n{_escaped(value)[1:-1]}"""'


def _escaped(value: str, spelled_out: str = "") -> str:
    return f'"{"".join(_char(char, spelled_out) for char in value)}"'


def _char(char: str, spelled_out: str) -> str:
    if char in spelled_out or (char not in _SHORT and (char < " " or char == "\x7f")):
        return f"\\u{ord(char):04X}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08X}"
    return _SHORT.get(char, char)


def _reads_alike(document: str, tree: object) -> bool:
    return not sd_scripts_reading(document, tree)


def _is_value(node: Node) -> bool:
    if isinstance(node.value, list):
        return not any(isinstance(item.value, dict) for item in node.value)
    return not isinstance(node.value, dict)
