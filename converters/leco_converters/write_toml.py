"""Writes nodes as TOML that both `tomllib` and the `toml` of sd-scripts read alike.

`toml` 0.10 misreads some valid TOML: a text that is one quote, or an item of a list that begins with a comma. Each
text that may be of that kind is tried on it, and spelled another way where it fails.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import tomlkit
from tomlkit.items import AoT, Item, Table

from leco_converters.tree import Node, inner_comments, plain
from leco_converters.write_yaml import comment_lines, commented
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
    raise ConfigError(f"sd-scripts cannot read the text {_shown(value)} in any spelling", fix="change the prompt")


def _fill(table: tomlkit.TOMLDocument | Table, node: Node, below: list[str]) -> None:
    """Put in single values first, as TOML wants, then tables; ``below`` takes the comments behind the last entry."""
    above = below
    tables = {name: child for name, child in node.table.items() if not _is_value(child)}
    for name, child in node.table.items():
        if name not in tables:
            above += commented(name, child) if child.left_out else _above_value(name, child)
            if not child.left_out:
                table.append(name, _with_comments(_item(child), above, _behind(name, child)))
    for name, child in tables.items():
        if child.left_out:
            above += commented(name, child)
        elif isinstance(child.value, dict):
            table.append(name, _below(child, above))
        else:
            above += comment_lines(_around(child))
            listed = AoT([])
            for item in child.items:
                if item.left_out:
                    above += commented(name, item)
                else:
                    listed.append(_below(item, above))
            table.append(name, listed)


def _below(node: Node, above: list[str]) -> Table:
    """Return a table of its own with what stands above it; ``above`` then has what stands behind its last entry."""
    made, lines = tomlkit.table(), [*above, *comment_lines(_around(node))]
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


def _above_value(name: str, node: Node) -> list[str]:
    # `toml` misreads comments inside a list
    lines = comment_lines([*node.before, *(comment for comment in inner_comments(node) if comment)])
    return lines if _behind(name, node) else [*lines, *comment_lines([node.after] if node.after else [])]


def _behind(name: str, node: Node) -> str:
    """Return the comment behind a value, where `toml` is not irritated by it."""
    if not node.after:
        return ""
    (comment,) = comment_lines([node.after])
    alike = _PLAIN_COMMENT.match(comment) or _reads_alike(f"x = {_value(node)}  {comment}\n", {"x": plain(node)})
    return comment if alike else ""


def _item(node: Node) -> Item:
    return tomlkit.value(_value(node))


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
    items = [item for item in node.items if not item.left_out]
    if not all(isinstance(item.value, str) for item in items):
        return f"[{', '.join(map(_value, items))}]"
    values = [str(item.value) for item in items]
    for spelling in _LIST_SPELLINGS:
        spelled = [spelling(value) for value in values]
        wide = sum(map(len, spelled)) > _WIDTH
        written = "[\n    " + ",\n    ".join(spelled) + ",\n]" if wide else f"[{', '.join(spelled)}]"
        if _reads_alike(f"x = {written}\n", {"x": values}):
            return written
    shown = _shown(str(plain(node)))
    raise ConfigError(f"sd-scripts cannot read the list {shown} in any spelling", fix="write one entry per text")


def _in_list(value: str) -> str:
    for spelled in _spellings(value):
        if all(_reads_alike(f"x = [{spelled}{rest}]\n", {"x": [value, *more]}) for rest, more in _NEIGHBOURS):
            return spelled
    return _escaped(value)


_NEIGHBOURS: tuple[tuple[str, list[str]], ...] = (("", []), (', "b"', ["b"]))
_LIST_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda value: f'"{value}"' if _SAFE.match(value) else _escaped(value),
    _in_list,
    lambda value: _escaped(value, ',"#[]'),
)


def _spellings(value: str) -> Iterator[str]:
    """Yield every way to write a text, the plainest first."""
    yield _escaped(value)
    if not re.search("['\x00-\x1f\x7f]", value):
        yield f"'{value}'"
    for spelled_out in (",", "".join(_SHORT)):
        yield _escaped(value, spelled_out)
    yield f'"""\n{_escaped(value)[1:-1]}"""'
    yield _escaped(value, value)
    yield _escaped(value, value.replace("\\", ""))


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


def _around(node: Node) -> Iterable[str]:
    return [*node.before, *([node.after] if node.after else [])]


def _shown(value: str) -> str:
    return ascii(value if len(value) <= 40 else value[:37] + "...")
