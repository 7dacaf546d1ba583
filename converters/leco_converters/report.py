"""What a conversion did with each key that it could not carry over as it was."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leco_converters.foreign import TABLE
from leco_converters.tree import Node
from leco_plugin.errors import Where

Kind = Literal["lost", "changed", "added"]
LEFT_OUT = "left out, kept as a comment"
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
        place = {"file": str(self.where.file), "line": self.where.line, "key": self.where.key}
        return {"kind": self.kind, **place, "was": self.was, "done": self.done}


@dataclass
class Report:
    """All notes of one conversion."""

    path: Path
    """The source, where a note is about it as a whole."""
    notes: list[Note] = field(default_factory=list)
    left: list[Node] = field(default_factory=list)
    """What of the prompts is left out, to be written as comments, so that no text is lost."""

    def say(self, what: str, node: Node, /, **values: object) -> None:
        """Add the note of this name, with ``values`` filled in."""
        kind, was, done = TABLE["said"][what]
        self.note(kind, node, was.format(**values), done.format(**values))

    def note(self, kind: Kind, node: Node, was: str, done: str) -> None:
        """Add a note about one value of the source; the same one twice counts once."""
        note = Note(kind, node.where(self.path), was, done)
        if note not in self.notes[-_SHOWN:]:
            self.notes.append(note)

    def leave(self, node: Node, why: str, kind: Kind = "lost") -> None:
        """Leave a value of the prompts out, with a note."""
        self.note(kind, node, why, LEFT_OUT)
        self.left.append(node)

    @property
    def lost(self) -> bool:
        """Whether anything has no counterpart."""
        return any(note.kind == "lost" for note in self.notes)

    def lines(self) -> Iterator[str]:
        """Yield the report for a console; many notes of the same kind are counted instead."""
        seen: Counter[tuple[str, str, str]] = Counter()
        for note in self.notes:
            alike = (note.kind, re.sub(r"\[[0-9]+\]", "[]", note.where.key), note.done)
            seen[alike] += 1
            if seen[alike] <= _SHOWN:
                yield str(note)
        for (kind, key, done), count in seen.items():
            if count > _SHOWN:
                yield f"{kind}: {key}: {count - _SHOWN} more like it; {done}"
