"""Writes results: each beside its place first, then read back, then all of them moved to their places."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import toml

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
            raise _taken(path)


def write_all(outputs: Sequence[Output], force: bool) -> None:
    """Write all files or none; raises ConfigError where one cannot be written or does not read back."""
    placed: list[Path] = []
    with ExitStack() as folders:
        try:
            made = [(_made(output, folders), output.path) for output in outputs]
            for temporary, path in made:
                new = not path.exists()
                _place(temporary, path, force)
                placed += [path] if new else []
        except BaseException as error:
            for path in placed:
                with suppress(OSError):
                    path.unlink()
            if isinstance(error, UnicodeError):
                message = f"{outputs[0].path}: half of a character pair (a lone surrogate) is no text"
                raise ConfigError(message, fix="write the character itself") from None
            if isinstance(error, OSError):
                reason = error.strerror or str(error)
                raise ConfigError(f"{outputs[0].path}: cannot be written: {reason}", fix="check the folder") from None
            raise


def _made(output: Output, folders: ExitStack) -> Path:
    """The finished file, in a folder of its own beside its place."""
    folder = folders.enter_context(tempfile.TemporaryDirectory(prefix=".leco_", dir=output.path.parent))
    made = Path(folder) / output.path.name
    with made.open("w", encoding="utf-8", newline="\n") as file:
        file.write(output.text)
        file.flush()
        os.fsync(file.fileno())
    _read_back(made.read_text(encoding="utf-8"), output)
    return made


def _read_back(text: str, output: Output) -> None:
    """Read a written file, TOML with both parsers; raises ConfigError where it is not what it should be."""
    both: list[Callable[[str], object]] = [tomllib.loads, toml.loads]
    parsers = both if output.path.suffix == ".toml" else [lambda yaml: parse(yaml, output.path)[0]]
    try:
        found = [parser(text) for parser in parsers]
    except Exception as error:  # noqa: BLE001 - the parsers fail in many ways, and each means the same here
        raise ConfigError(f"{output.path}: the result cannot be read back: {error}", fix="report this file") from None
    if any(one != output.tree for one in found):
        raise ConfigError(f"{output.path}: the result reads back otherwise", fix="report this file")


def _place(temporary: Path, path: Path, force: bool) -> None:
    """Move a finished file to its place in one step."""
    try:
        if not force:
            os.link(temporary, path)  # fails where a file has appeared there meanwhile
            return
    except FileExistsError:
        raise _taken(path) from None
    except OSError:  # a file system without links
        pass
    os.replace(temporary, path)


def _taken(path: Path) -> ConfigError:
    return ConfigError(f"{path}: already there", fix="name another target, or replace it with --force")
