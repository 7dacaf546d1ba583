"""Errors that end at the command line as one clear sentence each, with exit code 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Where:
    """The place in a user's file, or on the command line, that an error is about."""

    file: Path | None
    """None is the command line."""
    line: int | None = None
    key: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file or "")
        return ": ".join(filter(None, (place, self.key)))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it is, and the likely fix."""

    where: Where | None
    message: str
    fix: str = ""

    def __str__(self) -> str:
        head = ": ".join(filter(None, (str(self.where or ""), self.message)))
        return f"{head}\n  fix: {self.fix}" if self.fix else head


class LecoError(Exception):
    """What a user can put right; carries one problem or several."""

    def __init__(self, problems: str | Problem | Sequence[Problem], *, fix: str = "") -> None:
        if isinstance(problems, str):
            problems = Problem(None, problems, fix)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class ConfigError(LecoError):
    """A job or prompt file, or a flag, says something that cannot be meant."""


class ModelError(LecoError):
    """A model cannot be loaded, or is of a kind that cannot be trained here."""


class NetworkError(LecoError):
    """A LoRA network or file cannot be made, read or written."""


class PluginError(LecoError):
    """A plugin is misspelt, missing or contradicts another."""


class TrainingError(LecoError):
    """A run cannot go on: the loss is not finite, or a file cannot be written."""


_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
LESS_MEMORY = (
    "set train.gradient_checkpointing: true, train.dtype: bf16, or a smaller resolution or batch_size; `leco check` "
    "says what a job needs"
)


def reason(error: BaseException) -> str:
    """The first line of what ``error`` says, or its kind where it says nothing, or cannot even say it."""
    try:
        text = str(error).strip()
    # somebody else's exception may fail in its own message
    except BaseException:  # noqa: BLE001
        text = ""
    return text.splitlines()[0] if text else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, of whatever device: torch has several kinds for it, and a bare RuntimeError."""
    kind = type(error).__name__
    return isinstance(error, MemoryError) or kind == "OutOfMemoryError" or any(one in reason(error) for one in _MEMORY)


def harmless(text: str) -> str:
    """``text`` on one line, with escapes for what is not printable: a foreign file must not steer the terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )
