"""Writes nodes as TOML that both `tomllib` and the `toml` of sd-scripts read alike.

`toml` 0.10 misreads some valid TOML: a text that is one quote, or an item of a list that begins with a comma. Each
text that may be of that kind is tried on it, and spelled another way where it fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from leco_converters.tree import Node, inner_comments, plain
from leco_converters.yaml_text import comment_lines, commented
from leco_plugin.config.toml_file import sd_scripts_reading
from leco_plugin.errors import ConfigError

_SAFE = re.compile("[^\"'\\\\\x00-\x1f\x7f]*\\Z")
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_PLAIN_COMMENT = re.compile(r"[#A-Za-z0-9 .:;()/+-]*\Z")
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z")
_WIDTH = 110


def write_toml(root: Node, head: Sequence[str] = (), tail: Sequence[str] = ()) -> str:
    """Return the text of a prompt file; raises ConfigError for a text that `toml` cannot be made to read."""
    lines = [*comment_lines(head), *([""] if head else []), *_table(root, ""), *comment_lines(tail)]
    while lines and not lines[0]:
        lines.pop(0)
    return "\n".join(lines) + "\n"


def text(value: str) -> str:
    """Return a text as a TOML string."""
    if _SAFE.match(value):
        return f'"{value}"'
    for spelled in _spellings(value):
        if _reads_alike(f"x = {spelled}\n", {"x": value}):
            return spelled
    raise ConfigError(f"sd-scripts cannot read the text {_shown(value)} in any spelling", fix="change the prompt")


def _table(node: Node, path: str) -> Iterator[str]:
    """Yield the lines of a table: single values first, as TOML wants, then the tables in it."""
    last_value = max((i for i, child in enumerate(node.table.values()) if _is_value(child)), default=-1)
    tables: list[tuple[str, Node]] = []
    for index, (name, child) in enumerate(node.table.items()):
        if not _is_value(child) or (child.left_out and index > last_value):
            tables.append((name, child))
        else:
            yield from commented(name, child) if child.left_out else _assignment(name, child)
    for name, child in tables:
        yield from _below(name, child, path)


def _below(name: str, child: Node, path: str) -> Iterator[str]:
    """Yield the lines of a table in another one, or of a list of tables."""
    if child.left_out:
        yield from commented(name, child)
        return
    header = f"{path}.{_key(name)}" if path else _key(name)
    if isinstance(child.value, dict):
        yield from ["", *_above(child), f"[{header}]", *_table(child, header)]
        return
    yield from _above(child)
    for item in child.items:
        if item.left_out:
            yield from commented(name, item)
        else:
            yield from ["", *_above(item), f"[[{header}]]", *_table(item, header)]


def _assignment(name: str, node: Node) -> Iterator[str]:
    yield from comment_lines(node.before)
    # `toml` misreads comments inside a list
    yield from comment_lines([text for text in inner_comments(node) if text])
    line = f"{_key(name)} = {_value(node)}"
    if not node.after:
        yield line
        return
    comment = comment_lines([node.after])[0]
    if _PLAIN_COMMENT.match(comment) or _reads_alike(f"{line}  {comment}\n", {name: plain(node)}):
        yield f"{line}  {comment}"
    else:
        yield from (comment, line)


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
    yield _escaped(value, ",")
    yield _escaped(value, "".join(_SHORT))
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


def _above(node: Node) -> list[str]:
    return comment_lines([*node.before, *([node.after] if node.after else [])])


def _key(name: str) -> str:
    return name if _BARE_KEY.match(name) else text(name)


def _shown(value: str) -> str:
    return ascii(value if len(value) <= 40 else value[:37] + "...")
