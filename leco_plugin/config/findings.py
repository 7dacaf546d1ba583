"""Collects everything that is wrong or odd in one file, so that it is reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from leco_plugin.errors import ConfigError, Problem, Where

Key = tuple[str | int, ...]
"""Path of a value in a file, such as ``("targets", 1, "guidance_scale")``."""


def key_text(key: Key) -> str:
    """Write a key as users do: ``targets[1].guidance_scale``."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the known name that ``name`` was probably meant to be, or an empty string."""
    choices = sorted(known)
    close = difflib.get_close_matches(name[:100].lower().replace("-", "_"), choices, n=1, cutoff=0.6)
    return close[0] if close else ""


def describe(value: object) -> str:
    """Name a value for a message: what it is, and shortly what it says."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the switch {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {shorten(value)}"
    if isinstance(value, str):
        return f"the text '{shorten(value)}'"
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, (list, tuple)) else "a date or time"


def shorten(value: object, most: int = 40) -> str:
    """Write a value in at most ``most`` characters."""
    if isinstance(value, int) and abs(value) >= 10**most:
        return "with too many digits"
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def refusal(file: Path, message: str, fix: str = "", line: int | None = None, key: Key = ()) -> ConfigError:
    """The error that a file, or one place in it, cannot be read."""
    return ConfigError(Problem(Where(file, line, key_text(key)), message, fix))


@dataclass
class Findings:
    """Errors and warnings about one file, each with the line of its key."""

    file: Path | None
    lines: Mapping[Key, int] = field(default_factory=dict)
    places: dict[Key, Where] = field(default_factory=dict)
    """Where a value, or all below it, stands that is not at its own key in the file, such as on the command line."""
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    _noted: set[Problem] = field(default_factory=set)

    def error(self, key: Key, message: str, fix: str = "") -> None:
        """Note something that cannot be meant."""
        self._note(self.errors, key, message, fix)

    def warn(self, key: Key, message: str, fix: str = "") -> None:
        """Note something that is legal but does nothing or surprises."""
        self._note(self.warnings, key, message, fix)

    def unknown(self, key: Key, known: Iterable[str]) -> None:
        """Note a key that nothing reads, and guess which one was meant."""
        known = sorted(known)
        guess = did_you_mean(str(key[-1]), known)
        fix = f"did you mean '{guess}'?" if guess else f"remove it; known here: {', '.join(known)}"
        self.error(key, "unknown key", fix)

    def where(self, key: Key) -> Where:
        """Place of ``key``, or of the nearest table around it that has one."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.places:
                return self.places[key[:length]]
            if key[:length] in self.lines:
                return Where(self.file, self.lines[key[:length]], key_text(key))
        return Where(self.file, None, key_text(key))

    def raise_errors(self) -> None:
        """Raise one ConfigError with every error noted so far, in the order of the file; none: do nothing."""
        if self.errors:
            raise ConfigError(in_file_order(self.errors))

    def _note(self, notes: list[Problem], key: Key, message: str, fix: str) -> None:
        problem = Problem(self.where(key), message, fix)
        if problem not in self._noted:
            self._noted.add(problem)
            notes.append(problem)


def in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems by line; those without a line come first."""
    return sorted(problems, key=lambda problem: (problem.where.line or 0) if problem.where else 0)
