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
    close = difflib.get_close_matches(name.lower().replace("-", "_"), choices, n=1, cutoff=0.6)
    return close[0] if close else ""


@dataclass
class Findings:
    """Errors and warnings about one file, each with the line of its key."""

    file: Path
    lines: Mapping[Key, int] = field(default_factory=dict)
    overridden: frozenset[Key] = frozenset()
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
        """Place of ``key``, or of the nearest table around it that has a line."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.overridden:
                return Where(self.file, None, key_text(key))
            if key[:length] in self.lines:
                return Where(self.file, self.lines[key[:length]], key_text(key))
        return Where(self.file, None, key_text(key))

    def raise_errors(self) -> None:
        """Raise one ConfigError with every error noted so far, in the order of the file; none: do nothing."""
        if self.errors:
            raise ConfigError(in_file_order(self.errors))

    def _note(self, notes: list[Problem], key: Key, message: str, fix: str) -> None:
        if any(key[:length] in self.overridden for length in range(1, len(key) + 1)):
            message += " (set on the command line)"
        problem = Problem(self.where(key), message, fix)
        if problem not in self._noted:
            self._noted.add(problem)
            notes.append(problem)


def in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems by line; those without a line come first."""
    return sorted(problems, key=lambda problem: (problem.where.line or 0) if problem.where else 0)
