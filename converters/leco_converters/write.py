"""Writes results: all of them read back first, then all of them put in their places."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import toml

from leco_plugin.atomic import write_atomically
from leco_plugin.config.toml_file import tomllib
from leco_plugin.config.yaml_file import parse
from leco_plugin.errors import ConfigError


@dataclass(frozen=True)
class Output:
    """A file to be written."""

    path: Path
    text: str
    tree: object
    """What it has to be read as."""


def refuse_taken(paths: Sequence[Path], sources: Sequence[Path], force: bool) -> None:
    """Raise ConfigError where a result would replace a source, or without ``force`` any file."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("both results would be written to the same file", fix="name another file for the job")
    for path in paths:
        if path.exists() and any(source.exists() and os.path.samefile(path, source) for source in sources):
            raise ConfigError(f"{path}: this is the source, which is never overwritten", fix="name another target")
        if path.is_dir():
            raise ConfigError(f"{path}: this is a folder", fix="name a file in it")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}", fix="make the folder, or name another")
        if path.exists() and not force:
            raise ConfigError(f"{path}: already there", fix="name another target, or replace it with --force")


def write_all(outputs: Sequence[Output]) -> None:
    """Write all files or none; raises ConfigError where one cannot be written or does not read back."""
    files = {output.path: _read_back(output) for output in outputs}
    new = [path for path in files if not path.exists()]
    try:
        for path, data in files.items():
            write_atomically(path, data)
    except BaseException as error:
        for path in new:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise ConfigError(f"{outputs[0].path}: cannot be written: {reason}", fix="check the folder") from None
        raise


def _read_back(output: Output) -> bytes:
    """The bytes of a file, read with its parsers, TOML with both; ConfigError where it is not what it should be."""
    try:
        data = output.text.encode()
    except UnicodeError:
        message = f"{output.path}: half of a character pair (a lone surrogate) is no text"
        raise ConfigError(message, fix="write the character itself") from None
    both: list[Callable[[str], object]] = [tomllib.loads, toml.loads]
    parsers = both if output.path.suffix == ".toml" else [lambda yaml: parse(yaml, output.path)[0]]
    try:
        found = [parser(output.text) for parser in parsers]
    except Exception as error:  # noqa: BLE001 - the parsers fail in many ways, and each means the same here
        raise ConfigError(f"{output.path}: the result cannot be read back: {error}", fix="report this file") from None
    if any(one != output.tree for one in found):
        raise ConfigError(f"{output.path}: the result reads back otherwise", fix="report this file")
    return data
