"""The folder of a run: one at a time under a name, nothing of another replaced unasked, nothing left of dead ones."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from leco_plugin.atomic import LEFT_OVER
from leco_plugin.config.schema import JobConfig
from leco_plugin.errors import ConfigError, reason

_STEP = r"(?:-step\d{8,}(?:-emergency)?)?"
_ENDINGS = r"\.safetensors|\.ckpt|\.pt|-state"
_ENDINGS_BESIDE = r"\.run\.jsonl|\.json|(?:-\d+)?\.(?:png|jpg|webp)"
_ID_LENGTH = 29
_LOCKED_BYTE = 1 << 20
"""Windows keeps others from reading what is locked: a byte far behind all that is written."""


def new_run_id() -> str:
    """A name for one run that no other has; in rising order, as far as the clock is right."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(3)}"


class Folder:
    """A run's hold on its name in its folder, as a block; it is gone with the process that has it, however that ends.

    Raises ConfigError where the folder cannot be written, or another run holds the name.
    """

    def __init__(self, job: JobConfig) -> None:
        self.path, self._name, self._overwrite = job.output_folder, job.name, job.save.overwrite
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / f".{job.name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ConfigError(
                f"cannot write to {self.path}: {error.strerror}", fix="set another training_folder"
            ) from None
        self._lock = os.fdopen(handle, "r+b", buffering=0)
        if not _locked(handle):
            self._lock.close()
            raise ConfigError(
                f"another run writes {job.name} in {self.path} at this moment",
                fix="wait for its end, or set another name or training_folder",
            )

    def __enter__(self) -> Folder:
        self._sweep()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def newest_run(self) -> str:
        """The run that wrote here last; empty where that is not known."""
        self._lock.seek(0)
        return self._lock.read(_ID_LENGTH).decode("ascii", "replace")

    @property
    def is_finished(self) -> bool:
        """Whether a LoRA of the end of a run is there."""
        return any((self.path / f"{self._name}.{ending}").is_file() for ending in ("safetensors", "ckpt", "pt"))

    def begin(self, run: str) -> None:
        """From now on ``run`` is the newest one."""
        try:
            self._lock.seek(0)
            # of one length, so that none is ever half there
            self._lock.write(run.encode())
        except OSError as error:
            raise ConfigError(
                f"cannot write to {self.path}: {reason(error)}", fix="see that the disk has room"
            ) from None

    def replaced(self, *, goes_on: bool) -> list[Path]:
        """The LoRAs and states here that are of other runs, which a new one may replace.

        ``goes_on`` says that they are of the run itself. Raises ConfigError where the job does not say that they may
        be replaced.
        """
        if goes_on:
            return []
        # what a run saved that broke off is in nobody's way
        mine = re.compile(rf"{re.escape(self._name)}(-step\d{{8,}})?({_ENDINGS})")
        found = sorted(path for path in self.path.iterdir() if mine.fullmatch(path.name) and _holds_work(path))
        if found and not self._overwrite:
            states = any(path.is_dir() for path in found)
            raise ConfigError(
                f"{self.path} holds {named(found)} of an earlier run, which this one would replace",
                fix=("set resume: newest to go on with it, " if states else "set ")
                + f"another name (now {self._name}), or save.overwrite: true",
            )
        return found

    def _sweep(self) -> None:
        """Clear away what dead runs of this name left half-written; a state that was being replaced comes back."""
        endings = rf"{_ENDINGS}|{_ENDINGS_BESIDE}"
        own = re.compile(rf"\.(?P<whole>{re.escape(self._name)}{_STEP}(?:{endings})){LEFT_OVER}")
        samples = self.path / "samples"
        for path in sorted([*self.path.iterdir(), *(samples.iterdir() if samples.is_dir() else ())]):
            match = own.fullmatch(path.name)
            if not match:
                continue
            with suppress(OSError):
                if path.name.endswith(".old") and not (self.path / match["whole"]).exists():
                    path.rename(self.path / match["whole"])
                elif path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _locked(handle: int) -> bool:
    """Lock the file ``handle`` for this process; False where another one has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    # a file system without locks: the run is as safe as it can be there
    except OSError:
        pass
    return True


def _holds_work(path: Path) -> bool:
    return path.is_dir() if path.name.endswith("-state") else path.is_file()


def named(paths: Sequence[Path], most: int = 3) -> str:
    """The names of the first of ``paths``, and how many more there are."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(path.name for path in paths[:most]) + more
