"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

LEFT_OVER = r"\.[a-z0-9_]{8}(\.old)?"
"""What follows a dot and a name in the names of files and folders that a killed process left half-written."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and move it there, so that nobody ever sees half a file."""
    if path.exists() and not path.is_file():
        # a pipe or a device, such as /dev/stdout, is written to and never replaced
        with path.open("wb") as file:
            file.write(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def umask() -> int:
    """The permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
