"""Writes nodes as TOML that both `tomllib` and the `toml` of sd-scripts read alike.

`toml` 0.10 misreads some valid TOML: a text that is one quote, or an item of a list that begins with a comma. Each
text that may be of that kind is tried on it, and spelled another way where it fails.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import tomlkit

from leco_converters.tree import Node, comments, plain
from leco_converters.write_yaml import comment_lines
from leco_plugin.config.toml_file import sd_scripts_reading
from leco_plugin.errors import ConfigError

_SAFE = re.compile("[^\"'\\\\\x00-\x1f\x7f]*\\Z")
_PLAIN_COMMENT = re.compile(r"[#A-Za-z0-9 .:;()/+-]*\Z")
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z")
_WIDTH = 110


def write_toml(root: Node, head: Sequence[str] = (), tail: Sequence[str] = ()) -> str:
    """Return the text of a prompt file; raises ConfigError for a text that `toml` cannot be made to read."""
    above: list[str] = []
    lines = [*comment_lines(head), *([""] if head else []), *_table(root, (), above)]
    return "\n".join([*lines, *above, *comment_lines(tail)]).strip("\n") + "\n"


def _table(node: Node, name: tuple[str, ...], above: list[str]) -> Iterator[str]:
    """Yield single values first, as TOML wants, then tables; ``above`` has the comments above the next line."""
    tables = {key: child for key, child in node.table.items() if not _is_value(child)}
    for key, child in node.table.items():
        if key not in tables:
            behind = _behind(child)
            # `toml` misreads comments inside a list
            inside = [text for item in child.items for text in comments(item) if text]
            yield from (*above, *comment_lines([*(child.before if behind else child.around), *inside]))
            above.clear()
            yield f"{_key(key)} = {_value(child)}{'  ' if behind else ''}{behind}"
    for key, child in tables.items():
        place = ".".join(map(_key, (*name, key)))
        above += comment_lines(child.around) if child.items else []
        for table in child.items or [child]:
            above += comment_lines(table.around)
            # a table that holds tables alone needs no line of its own
            if child.items or not table.table or any(map(_is_value, table.table.values())):
                yield from ("", *itertools.dropwhile(lambda line: not line, above))
                above.clear()
                yield f"[[{place}]]" if child.items else f"[{place}]"
            yield from _table(table, (*name, key), above)


def _key(name: str) -> str:
    return tomlkit.key(name).as_string()


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
        return _text(value)
    if isinstance(value, list):
        return _list(node)
    raise TypeError(f"{type(value).__name__} has no place in a prompt file")


def _list(node: Node) -> str:
    """Return a list on one line, or where that is too wide with an item in each."""
    spelled = [_text(item.value, in_list=True) if isinstance(item.value, str) else _value(item) for item in node.items]
    if sum(map(len, spelled)) > _WIDTH and all(isinstance(item.value, str) for item in node.items):
        return "[\n    " + ",\n    ".join(spelled) + ",\n]"
    return f"[{', '.join(spelled)}]"


def _text(value: str, *, in_list: bool = False) -> str:
    """Return a text as a TOML string, in the first spelling that `toml` reads alike, beside others where in a list."""
    if _SAFE.match(value) and not (in_list and value.lstrip().startswith(",")):
        return f'"{value}"'
    frames = (("{}", value), ("[{}]", [value]), ('[{}, "b"]', [value, "b"]), ('["b", {}]', ["b", value]))
    for spelled in _spellings(value):
        documents = ((f"x = {frame.replace('{}', spelled)}\n", tree) for frame, tree in frames[: 4 if in_list else 1])
        if all(_reads_alike(document, {"x": tree}) for document, tree in documents):
            return spelled
    raise ConfigError(f"sd-scripts cannot read the text {value[:40]!a} in any spelling", fix="change the prompt")


def _spellings(value: str) -> Iterator[str]:
    """Yield the ways to write a text of which one is always read, the plainest first."""
    escaped = tomlkit.string(value).as_string()
    yield escaped
    yield escaped if re.search("['\x00-\x1f\x7f]", value) else f"'{value}'"
    # every character but a backslash by its number
    by_number = (f"\\u{ord(char):04X}" if char <= "\uffff" else f"\\U{ord(char):08X}" for char in value)
    yield f'"{"".join(by_number)}"'.replace("\\u005C", "\\\\")
    yield f'"""\n{escaped[1:-1]}"""'


def _reads_alike(document: str, tree: object) -> bool:
    return not sd_scripts_reading(document, tree)


def _is_value(node: Node) -> bool:
    if isinstance(node.value, list):
        return not any(isinstance(item.value, dict) for item in node.value)
    return not isinstance(node.value, dict)
