"""YAML text to a tree with the line of every key: YAML 1.2 scalars, no objects, no bombs."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from leco_plugin.config.findings import Key, refusal
from leco_plugin.errors import ConfigError

_MOST_VALUES = 100_000
_DEEPEST = 50
_FIX = "correct the YAML in or above this line"
_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"(?:null|Null|NULL|~|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the scalars of YAML 1.2: ``1e-4`` is a number, ``no`` and ``1:30`` are text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML declares it, and copies it before a change
        "": [(f"{_TAG}null", re.compile(r"\Z"))],
        None: [
            (f"{_TAG}null", re.compile(r"(?:null|Null|NULL|~)\Z")),
            (f"{_TAG}bool", _BOOL),
            (f"{_TAG}int", _INT),
            (f"{_TAG}float", _FLOAT),
            (f"{_TAG}merge", re.compile(r"<<\Z")),
        ],
    }


def parse(text: str, path: Path) -> tuple[object, dict[Key, int]]:
    """Return the values and the line of each key; raises ConfigError for what is not safe, single-document YAML."""
    tree, builder = _build(text, path)
    return tree, builder.lines


def spellings(text: str, path: Path) -> dict[Key, str]:
    """How the text spells each value that is none itself: ``1.50`` or ``true``; raises ConfigError like `parse`."""
    return _build(text, path)[1].spelled


def _build(text: str, path: Path) -> tuple[object, _Builder]:
    try:
        node = yaml.compose(text, _Loader)
        builder = _Builder(path, text)
        return (None if node is None else builder.value(node, ())), builder
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise refusal(path, f"not valid YAML: {_reason(error)}", _FIX, line) from None
    except yaml.YAMLError as error:
        raise refusal(path, f"not valid YAML: {str(error).splitlines()[0]}", _FIX) from None
    except RecursionError:
        raise refusal(path, "nested too deeply", _FIX) from None
    except (ValueError, OverflowError):
        # PyYAML lets them through where an escape such as "\U00110000" names no character
        raise refusal(path, "not valid YAML: an escape in it names no character", _FIX) from None


def scalar(text: str) -> object:
    """Read one plain value by the same rules, as a command line gives it; what is no number or switch is text."""
    for tag, pattern in _Loader.yaml_implicit_resolvers[None]:
        if pattern.match(text):
            return _convert(tag.removeprefix(_TAG), text)
    return text


class _Builder:
    """Turns PyYAML's nodes into values, following aliases within bounds."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        # PyYAML's own count takes U+0085 and U+2028 for ends of lines, which no editor does
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self.lines: dict[Key, int] = {}
        self.spelled: dict[Key, str] = {}
        self._count = 0

    def value(self, node: yaml.Node, key: Key) -> object:
        self._count += 1
        if self._count > _MOST_VALUES:
            raise self._refuse(node, key, f"more than {_MOST_VALUES} values once its aliases are followed")
        if len(key) > _DEEPEST:
            raise self._refuse(node, key[:5], "nested too deeply, or an alias contains itself")
        self.lines.setdefault(key, self._line(node))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(item, (*key, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, key)
        raise self._refuse(node, key, f"the tag {_short(node.tag)} is not allowed here")

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, object]:
        result: dict[str, object] = {}
        # a table's own keys win over merged ones, wherever the merge key stands
        for merging in (False, True):
            for name, key_node, child in self._entries(node, key, merging):
                place = (*key, name)
                if name in result:
                    if merging:
                        continue
                    message = f"this key already stands in line {self.lines[place]}"
                    raise self._refuse(key_node, place, message, "keep one of them")
                self.lines[place] = self._line(key_node)
                result[name] = self.value(child, place)
        return result

    def _entries(
        self, node: yaml.MappingNode, key: Key, merging: bool, depth: int = 0
    ) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """Yield the table's own entries, or those that its ``<<`` keys bring in, the first one first."""
        if depth > _DEEPEST:
            raise self._refuse(node, key, "merge keys are nested too deeply, or an alias contains itself")
        for key_node, child in node.value:
            self._count += 1
            if self._count > _MOST_VALUES:
                raise self._refuse(key_node, key, f"more than {_MOST_VALUES} values once its aliases are followed")
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._refuse(key_node, key, "a key has to be one word")
            is_merge = key_node.tag == f"{_TAG}merge"
            if is_merge and merging:
                for source in self._merged(child, key):
                    yield from self._entries(source, key, False, depth + 1)
                    yield from self._entries(source, key, True, depth + 1)
            elif not is_merge and not merging:
                yield _text(key_node), key_node, child

    def _merged(self, node: yaml.Node, key: Key) -> list[yaml.MappingNode]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                raise self._refuse(source, key, "only a table, or a list of tables, can be merged with <<")
        return list(sources)

    def _scalar(self, node: yaml.ScalarNode, key: Key) -> object:
        kind = _short(node.tag)
        patterns = {"!!null": _NULL, "!!bool": _BOOL, "!!int": _INT, "!!float": _FLOAT}
        if kind in ("!!str", "!!merge"):
            return _text(node)
        if kind not in patterns:
            raise self._refuse(node, key, f"the tag {kind} is not allowed here", "remove the tag")
        if not patterns[kind].match(node.value):
            raise self._refuse(node, key, f"'{node.value}' is not what the tag {kind} says", "remove the tag")
        self.spelled[key] = node.value
        try:
            return _convert(kind.removeprefix("!!"), node.value)
        except ValueError:
            raise self._refuse(node, key, "this number has too many digits", "write a smaller number") from None

    def _refuse(self, node: yaml.Node, key: Key, message: str, fix: str = "write the values out") -> ConfigError:
        return refusal(self.path, message, fix, self._line(node), key)

    def _line(self, node: yaml.Node) -> int:
        return bisect.bisect_left(self._ends, node.start_mark.index) + 1


def _convert(kind: str, text: str) -> object:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if kind == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    return text


def _text(node: yaml.ScalarNode) -> str:
    # PyYAML reads an escaped character beyond U+FFFF, as JSON writes it, as two halves
    return str(node.value).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _short(tag: str | None) -> str:
    return (tag or "").replace(_TAG, "!!")


def _reason(error: yaml.MarkedYAMLError) -> str:
    if "single document" in str(error.context):
        return "there is a second document after '---'"
    if error.problem and "\\t" in error.problem:
        return "a tab cannot indent a line; use spaces"
    return error.problem or str(error.context)
