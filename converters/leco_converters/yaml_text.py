"""Writes nodes as YAML that every reader takes alike: YAML 1.1, 1.2, and ai-toolkit's own."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence

from leco_converters.prompt_tables import TEXTS
from leco_converters.tree import Node, Source

_BARE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:[./+-][A-Za-z0-9_]+)*\Z")
_SPECIAL = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]|\\$(?=\\{)")
_BREAKS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_WIDTH = 110
LEFT_OUT = "# Not carried over:"


def write_yaml(root: Node, head: Sequence[str] = (), tail: Sequence[str] = ()) -> str:
    """Return the text of a table."""
    lines = [*comment_lines(head), *([""] if head else []), *_lines(root), *comment_lines(tail)]
    while lines and not lines[0]:
        lines.pop(0)
    return "\n".join(lines) + "\n"


def commented(name: str, node: Node, heading: str = LEFT_OUT) -> list[str]:
    """Return an entry as comment lines, with its own comments."""
    bare = Node(node.value, raw=node.raw, after=node.after)
    lines = [f"# {line}".rstrip() for line in _entry(f"{_key(name)}:", bare)]
    return [*comment_lines(node.before), *([heading] if heading else []), *lines]


def comment_lines(texts: Sequence[str]) -> list[str]:
    """Return comments so that none can end its line; what ai-toolkit would take for a variable is broken up."""
    return [_BREAKS.sub(" ", text).replace("${", "$ {") for text in texts]


def scalar(value: object) -> str:
    """Return a scalar as YAML."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if _BARE.match(text) and text.lower() not in _SPECIAL:
        return text
    return _UNPRINTABLE.sub(_escape, json.dumps(text, ensure_ascii=False))


def quoted(value: object) -> str:
    """Return a scalar as YAML, text always in quotes."""
    text = scalar(value)
    return f'"{text}"' if isinstance(value, str) and not text.startswith('"') else text


def source_comments(source: Source) -> list[str]:
    """Every comment of a file, for tests and checks of what survives."""
    found = [*source.head, *source.tail]
    pending = [source.root]
    while pending:
        node = pending.pop()
        found += [*node.before, node.after]
        pending += [*node.table.values(), *node.items]
    return [text for text in found if text]


def _lines(node: Node) -> Iterator[str]:
    """Yield the lines of a table's or a list's inside."""
    for name, child in node.table.items():
        if child.left_out:
            yield from commented(name, child)
        else:
            yield from _entry(f"{_key(name)}:", child)
    for child in node.items:
        if child.left_out:
            yield from commented("item", child)
        else:
            yield from _item(child)


def _entry(name: str, node: Node) -> Iterator[str]:
    yield from comment_lines(node.before)
    behind = _behind(node)
    short = _short(node, is_prompt=name.rstrip(":") in TEXTS)
    if short is not None:
        yield f"{name} {short}{behind}"
        return
    yield f"{name}{_empty(node)}{behind}"
    yield from (f"  {line}" if line else "" for line in _lines(node))


def _item(node: Node) -> Iterator[str]:
    yield from comment_lines(node.before)
    short = _short(node)
    if short is not None:
        yield f"- {short}{_behind(node)}"
        return
    lines = list(_lines(node))
    if _empty(node):
        yield from comment_lines([node.after] if node.after else [])
        yield from [*lines, f"-{_empty(node)}"]
        return
    # comments above the first key would stand behind the dash
    first = next((index for index, line in enumerate(lines) if line and not line.startswith("#")), 0)
    yield from lines[:first]
    if node.after:
        yield from comment_lines([node.after])
    yield f"- {lines[first]}"
    yield from (f"  {line}" if line else "" for line in lines[first + 1 :])


def _empty(node: Node) -> str:
    """Return what a table or list without entries says; the comments in it say nothing."""
    if any(not child.left_out for child in (*node.table.values(), *node.items)):
        return ""
    return " {}" if isinstance(node.value, dict) else " []"


def _short(node: Node, *, is_prompt: bool = True) -> str | None:
    """Return what fits behind the key: a scalar, an empty table, a list of numbers."""
    if node.value == {}:
        return "{}"
    if isinstance(node.value, dict):
        return None
    if isinstance(node.value, list):
        if _has_comments(node) or any(isinstance(item.value, dict) or item.left_out for item in node.value):
            return "[]" if not node.value else None
        texts = [_short(item) for item in node.value]
        joined = ", ".join(text for text in texts if text is not None)
        return f"[{joined}]" if len(joined) < _WIDTH and None not in texts else None
    if isinstance(node.value, (int, float)) and _plain_number(node.raw):
        return node.raw
    return quoted(node.value) if is_prompt else scalar(node.value)


def _plain_number(raw: str) -> bool:
    """Say whether a number can stay as it is spelled: every YAML reads it as a number."""
    return bool(re.fullmatch(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?", raw))


def _has_comments(node: Node) -> bool:
    children = [*node.table.values(), *node.items]
    return any(child.left_out or child.before or child.after or _has_comments(child) for child in children)


def _behind(node: Node) -> str:
    return f"  {comment_lines([node.after])[0]}" if node.after else ""


def _key(name: str) -> str:
    return scalar(name)


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text
    # YAML 1.1 takes only 1.0e-05 for a number: with a point, and a sign in the exponent
    sign = "" if exponent.startswith(("-", "+")) else "+"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}{exponent}"


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02X}" if code < 256 else f"\\u{code:04X}"
