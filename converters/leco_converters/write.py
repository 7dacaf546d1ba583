"""Writes results: each beside its place first, then read back, then all of them moved to their places."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leco_plugin.errors import ConfigError


@dataclass(frozen=True)
class Output:
    """A file to be written."""

    path: Path
    text: str
    check: Callable[[Path], None]
    """Reads the written file; raises ConfigError where it is not what it should be."""


def refuse_taken(paths: Sequence[Path], sources: Sequence[Path], force: bool) -> None:
    """Raise ConfigError where a result would replace a source, or without ``force`` any file."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("both results would be written to the same file", fix="name another file for the job")
    for path in paths:
        for source in sources:
            if path.exists() and source.exists() and os.path.samefile(path, source):
                raise ConfigError(f"{path}: this is the source, which is never overwritten", fix="name another target")
        if path.is_dir():
            raise ConfigError(f"{path}: this is a folder", fix="name a file in it")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}", fix="make the folder, or name another")
        if path.exists() and not force:
            raise ConfigError(f"{path}: already there", fix="name another target, or replace it with --force")


def write_all(outputs: Sequence[Output], force: bool) -> None:
    """Write all files or none; raises ConfigError where one cannot be written or does not read back."""
    written: list[tuple[Path, Path]] = []
    placed: list[Path] = []
    try:
        for output in outputs:
            handle, name = tempfile.mkstemp(suffix=output.path.suffix, prefix=".leco_", dir=output.path.parent)
            written.append((Path(name), output.path))
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(output.text)
                file.flush()
                os.fsync(file.fileno())
            output.check(Path(name))
        for temporary, path in written:
            new = not path.exists()
            _place(temporary, path, force)
            if new:
                placed.append(path)
    except BaseException as error:
        for path in [*placed, *(temporary for temporary, _ in written)]:
            with suppress(OSError):
                path.unlink()
        if isinstance(error, UnicodeError):
            message = f"{outputs[0].path}: half of a character pair (a lone surrogate) is no text"
            raise ConfigError(message, fix="write the character itself") from None
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise ConfigError(f"{outputs[0].path}: cannot be written: {reason}", fix="check the folder") from None
        raise


def _place(temporary: Path, path: Path, force: bool) -> None:
    """Move a finished file to its place in one step."""
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    if force:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)  # fails where a file has appeared there meanwhile
    except FileExistsError:
        raise ConfigError(f"{path}: already there", fix="name another target, or replace it with --force") from None
    except OSError:
        os.replace(temporary, path)
    else:
        temporary.unlink()
