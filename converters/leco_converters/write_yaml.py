"""Writes nodes as YAML that every reader takes alike: YAML 1.1, 1.2, and ai-toolkit's own."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.emitter import Emitter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from leco_converters.tree import TEXTS, Node, comments

_BARE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:[./+-][A-Za-z0-9_]+)*\Z")
_SPECIAL = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?\Z")
_BREAKS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_WIDTH = 110


def write_yaml(root: Node, head: Sequence[str] = (), tail: Sequence[str] = ()) -> str:
    """Return the text of a table."""
    out = io.StringIO()
    around: list[tuple[list[str], str]] = []
    _yaml().dump(_made(root, 0, [], around), out)
    # ai-toolkit puts environment variables where ${...} stands, before it reads the file
    written = out.getvalue().replace("${", "\\x24{").rstrip("\n").split("\n")
    lines = [*comment_lines(head), *([""] if head else [])]
    for line, (above, behind) in zip(written, around or [([], "")], strict=True):
        lines += [*above, f"{line} {behind}" if behind else line]
    return "\n".join([*lines, *comment_lines(tail)]).strip("\n") + "\n"


def commented(nodes: Iterable[Node]) -> list[str]:
    """Return values of a source as comment lines, each below its key and with its own comments."""
    lines: list[str] = []
    for node in nodes:
        name = next((part for part in reversed(node.key) if isinstance(part, str)), "")
        text = write_yaml(Node({name: Node(node.value, raw=node.raw, after=node.after)}))
        lines += [*comment_lines(node.before), *(f"# {line}" for line in text.splitlines())]
    return lines


def left_out(nodes: Iterable[Node]) -> list[str]:
    """Return what has no counterpart as comment lines for the end of a file, so that no text is lost."""
    lines = commented(nodes)
    return ["", "# Not carried over:", *lines] if lines else []


def comment_lines(texts: Iterable[str]) -> list[str]:
    """Return comments so that none can end its line; what ai-toolkit would take for a variable is broken up."""
    return [_BREAKS.sub(" ", text).replace("${", "$ {") for text in texts]


class _Emitter(Emitter):
    """ruamel's own, which would put a long key, and one with a line end, on lines of their own."""

    def check_simple_key(self) -> bool:
        """Whether a key stands before its colon: always."""
        return True


def _yaml() -> YAML:
    writer = YAML()
    writer.Emitter = _Emitter
    writer.width = 2**30
    writer.indent(mapping=2, sequence=4, offset=2)
    return writer


def _made(node: Node, column: int, above: list[str], around: list[tuple[list[str], str]]) -> Any:
    """ruamel's table or list; ``around`` takes the comments above and behind each line that it will write for it.

    Not ruamel's own comments: it ties each to the value before, and has no place for those above the first one.
    """
    made: Any = CommentedMap() if isinstance(node.value, dict) else CommentedSeq()
    for name, child in [*node.table.items(), *((None, item) for item in node.items)]:
        above = above + [" " * column + line if line else "" for line in comment_lines(child.before)]
        (behind,) = comment_lines([child.after])
        value = _flat(child, is_prompt=name is None or name in TEXTS)
        if value is None and name is None:
            # the first line of an item is that of its first entry
            value = _made(child, column + 2, above + ([" " * column + behind] if behind else []), around)
        else:
            around.append((above, behind))
            value = _made(child, column + 2, [], around) if value is None else value
        made.append(value) if name is None else made.update({_scalar(name): value})
        above = []
    return made


def _flat(node: Node, *, is_prompt: bool) -> Any:
    """Return what fits behind the key: a scalar, a table or list without entries, a list of such; else None."""
    if not isinstance(node.value, (dict, list)):
        return _scalar(node.value, node.raw, is_prompt=is_prompt)
    if node.table or any(map(comments, node.items)):
        return None
    made: Any = CommentedMap() if isinstance(node.value, dict) else CommentedSeq()
    made.extend(_flat(item, is_prompt=True) for item in node.items) if node.items else None
    if None in list(made) or sum(len(getattr(value, "value", value)) + 2 for value in made) >= _WIDTH:
        return None
    made.fa.set_flow_style()
    return made


def _scalar(value: object, raw: str = "", *, is_prompt: bool = False) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        spelled = raw if _NUMBER.match(raw) and not isinstance(value, bool) else _spelled(value)
        return TaggedScalar(spelled, tag=f"tag:yaml.org,2002:{'null' if value is None else type(value).__name__}")
    text = str(value)
    bare = _BARE.match(text) and text.lower() not in _SPECIAL and not is_prompt
    return text if bare else DoubleQuotedScalarString(text)


def _spelled(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    # YAML 1.1 takes only 1.0e-05 for a number, with a point
    return re.sub(r"^(-?[0-9]+)e", r"\1.0e", repr(value))
