"""YAML, TOML or JSON file to a plain tree, with the line of every key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from leco_plugin.config import json_file, toml_file, yaml_file
from leco_plugin.config.findings import Findings, Key, refusal
from leco_plugin.errors import Where

_MEBIBYTE = 1024 * 1024
_LARGEST = 4 * _MEBIBYTE
_LARGEST_YAML = _MEBIBYTE
_DEEPEST = 50
_PARSERS: Mapping[str, Callable[[str, Path], tuple[object, dict[Key, int]]]] = {
    ".toml": toml_file.parse,
    ".yaml": yaml_file.parse,
    ".yml": yaml_file.parse,
    ".json": json_file.parse,
}


TEXT_FORMATS = tuple(_PARSERS)
"""Endings of the files that are read as settings."""


@dataclass(frozen=True)
class Document:
    """A file as a tree of dicts, lists and scalars; nothing in it is checked yet."""

    path: Path
    tree: object
    lines: Mapping[Key, int] = field(default_factory=dict)
    """1-based line of each key and list item that the file spells out."""
    text: str = ""
    """The file's text as another program would read it: a byte order mark is kept, line ends are newlines."""
    places: Mapping[Key, Where] = field(default_factory=dict)
    """Where values stand that come from other places, or from other files."""

    def findings(self) -> Findings:
        """Start an empty report about this file."""
        return Findings(self.path, self.lines, dict(self.places))


def read_document(path: Path) -> Document:
    """Read a file in the format that its ending names.

    Raises ConfigError where the file cannot be read, is not UTF-8 text, or breaks its format's rules.
    """
    data = _read(path)
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise refusal(path, "the ending does not say what format this file has", "name it .toml, .yaml, .yml or .json")
    text = _decode(path, data)
    tree, lines = parse(text.removeprefix("\ufeff"), path)
    if _deeper(tree):
        raise refusal(path, f"nested more than {_DEEPEST} levels deep, so it is no settings file", "check the path")
    return Document(path, tree, lines, text)


def read_text(path: Path) -> str:
    """Read a text file, with newlines as line ends and without a byte order mark; raises ConfigError."""
    return _decode(path, _read(path)).removeprefix("\ufeff")


def read_prompt_lines(path: Path) -> list[str]:
    """Read one prompt per line, stripped, without the empty lines; raises ConfigError like `read_document`."""
    # not splitlines(): that also splits at form feeds and Unicode separators, which are part of a prompt
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise refusal(path, "this is a folder, not a file", "name a file in it")
        if not path.exists():
            raise refusal(path, "there is no such file", "check the spelling and the folder it is in")
        if not path.is_file():
            raise refusal(path, "this is not an ordinary file", "save the text in a file")
        size = path.stat().st_size
        if size > _LARGEST:
            raise refusal(path, f"larger than {_LARGEST} bytes, so it is not a settings file", "check the path")
        if size > _LARGEST_YAML and path.suffix.lower() in (".yaml", ".yml"):
            fix = "write it as TOML or JSON, which are read faster"
            raise refusal(path, f"larger than {_LARGEST_YAML} bytes, which YAML is read too slowly for", fix)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise refusal(path, f"cannot be read: {reason}", "check the path and its permissions") from None


def _deeper(tree: object) -> bool:
    """Whether values are nested deeper than any settings are; what reads them calls itself for every level."""
    level = [tree]
    for _ in range(_DEEPEST):
        level = [
            child
            for value in level
            if isinstance(value, (dict, list))
            for child in (value.values() if isinstance(value, dict) else value)
        ]
    return bool(level)


def _decode(path: Path, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise refusal(path, "the text is UTF-16, not UTF-8", "save it as UTF-8")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise refusal(path, "there is a NUL byte, so this is not UTF-8 text", "save it as UTF-8 text", line)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise refusal(path, "the text is not UTF-8", "save it as UTF-8", line) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
