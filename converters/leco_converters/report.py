"""What a conversion did with each key that it could not carry over as it was."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from leco_converters.tree import Node, Source
from leco_plugin.config.findings import key_text
from leco_plugin.errors import Where

Kind = Literal["lost", "changed", "added"]
_SHOWN = 5


@dataclass(frozen=True)
class Note:
    """One key, what it was, and what was done about it.

    lost: it has no counterpart. changed: it is carried, in another form or with another meaning. added: the result
    says what the source leaves to its trainer's default.
    """

    kind: Kind
    where: Where
    was: str
    done: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.was}; {self.done}"

    def fields(self) -> dict[str, object]:
        """Return the note for a JSON report."""
        return {
            "kind": self.kind,
            "file": str(self.where.file),
            "line": self.where.line,
            "key": self.where.key,
            "was": self.was,
            "done": self.done,
        }


@dataclass
class Report:
    """All notes of one conversion."""

    notes: list[Note] = field(default_factory=list)

    def note(self, kind: Kind, source: Source, node: Node, was: str, done: str) -> None:
        """Add a note about one value of the source; the same one twice counts once."""
        note = Note(kind, Where(source.path, node.line, key_text(node.key)), was, done)
        if note not in self.notes[-_SHOWN:]:
            self.notes.append(note)

    @property
    def lost(self) -> bool:
        """Whether anything has no counterpart."""
        return any(note.kind == "lost" for note in self.notes)

    def lines(self) -> Iterator[str]:
        """Yield the report for a console; many notes of the same kind are counted instead."""
        seen: Counter[tuple[str, str, str]] = Counter()
        for note in self.notes:
            kind = _alike(note)
            seen[kind] += 1
            if seen[kind] <= _SHOWN:
                yield str(note)
        for (kind_name, key, done), count in seen.items():
            if count > _SHOWN:
                yield f"{kind_name}: {key}: {count - _SHOWN} more like it; {done}"


def _alike(note: Note) -> tuple[str, str, str]:
    return note.kind, re.sub(r"\[[0-9]+\]", "[]", note.where.key), note.done
