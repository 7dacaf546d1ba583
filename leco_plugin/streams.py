"""Text for a console or a log that may not be able to show all of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Protocol, TextIO

from leco_plugin.errors import Problem, harmless


class Writes(Protocol):
    """What lines can be written to."""

    def write(self, text: str, /) -> int:
        """Write ``text``."""


def write_lines(stream: Writes, texts: Iterable[str]) -> None:
    """Write each line of ``texts``; a character that the stream cannot show, or that would steer it, is spelled out."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    for text in texts:
        for line in text.split("\n"):
            stream.write(harmless(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")


def write_json(stream: TextIO, fields: dict[str, object]) -> None:
    """Write one JSON object on one line, in ASCII, so that it is valid on a console of any encoding."""
    stream.write(json.dumps(fields, ensure_ascii=True, allow_nan=False) + "\n")


def problem_fields(problem: Problem) -> dict[str, object]:
    """A problem as the fields of a JSON object."""
    where = problem.where
    return {
        "file": str(where.file) if where else None,
        "line": where.line if where else None,
        "key": where.key if where else "",
        "message": problem.message,
        "fix": problem.fix,
    }
