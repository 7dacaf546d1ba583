"""The history of a run in a file beside its LoRA, NAME.run.jsonl: an event a line, what the run is with its start."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import TypeAdapter

from leco_plugin.atomic import write_atomically
from leco_plugin.config.run import RunDescription
from leco_plugin.errors import ConfigError, reason
from leco_plugin.events import Event, RunStarted, StepDone, Warned

SUFFIX = ".run.jsonl"
_KINDS: Mapping[str, TypeAdapter[Any]] = {kind.__name__: TypeAdapter(kind) for kind in get_args(Event)}
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What a file that is no history does to its reader."""
_AnyEvent = TypeVar("_AnyEvent")


def history_path(folder: Path, name: str) -> Path:
    """Where the history of the run ``name`` in ``folder`` is."""
    return folder / f"{name}{SUFFIX}"


class HistoryWriter:
    """Writes every event as it comes; a run that goes on from a state goes on with the history up to its step."""

    def __init__(self, run: RunDescription) -> None:
        self._run, self._folder = run, run.folder
        self._path = history_path(self._folder, run.name)
        self._before: list[Event] = []
        self._started = False
        self._step = 0

    def notify(self, event: Event) -> None:
        """Write ``event``; what comes before the start waits for it."""
        if isinstance(event, RunStarted):
            self._start(event)
        elif self._started:
            with self._path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(self._line(event))
        else:
            self._before.append(event)

    def _start(self, event: RunStarted) -> None:
        self._step, self._started = event.done, True
        # one without a history, or with that of another run, has nothing to go on with
        kept = [line for step, line in _steps(self._path, event.run_id) if step <= event.done] if event.done else []
        new = [self._line(one) for one in (event, *self._before)]
        write_atomically(self._path, "".join([*kept, *new]).encode())

    def _line(self, event: Event) -> str:
        """One line: the kind of the event, the step that it belongs to, and its own fields."""
        self._step = getattr(event, "step", self._step)
        record = {"event": type(event).__name__, "at": self._step, **_KINDS[type(event).__name__].dump_python(event)}
        if isinstance(event, RunStarted):
            record["run"] = self._run.model_dump(mode="json")
        if isinstance(record.get("path"), Path):
            record["path"] = _within(record["path"], self._folder)
        return json.dumps(record, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class History:
    """What happened in a run."""

    run: RunDescription
    events: tuple[Event, ...]
    """Since the run began, also where it was resumed; paths are where the files are now."""

    @property
    def last_part(self) -> tuple[Event, ...]:
        """The events since the run was started or resumed for the last time."""
        starts = [number for number, event in enumerate(self.events) if isinstance(event, RunStarted)]
        return self.events[starts[-1] :]

    def of(self, kind: type[_AnyEvent]) -> list[_AnyEvent]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]


def read_history(path: Path) -> History:
    """Read a history; a last line that was cut off is left out. ConfigError where it is none."""
    try:
        records = [record for record, _ in _records(path)]
        run = next(record["run"] for record in reversed(records) if "run" in record)
        # not strict: in JSON a list stands for a tuple
        found = RunDescription.model_validate(run, strict=False)
        events = tuple(_event(record, path.parent) for record in records if record["event"] in _KINDS)
    except (*_DAMAGE, StopIteration) as error:
        what = "it names none" if isinstance(error, StopIteration) else reason(error)
        raise ConfigError(f"{path} is no history of a run: {what}", fix="name the LoRA file instead") from None
    return History(found, events)


def _event(record: Mapping[str, Any], folder: Path) -> Event:
    event = cast(Event, _KINDS[record["event"]].validate_python(dict(record)))
    if isinstance(event, RunStarted | StepDone | Warned):
        return event
    # a history is a file that somebody may have given the user: it names no others than its own
    outside = event.path.is_absolute() or ".." in event.path.parts
    return replace(event, path=folder / (event.path.name if outside else event.path))


def _steps(path: Path, run: str) -> Iterator[tuple[int, str]]:
    """Every line of the history of ``run`` with the step that it belongs to; none of another's."""
    try:
        records = list(_records(path))
        if all(record.get("run_id", run) == run for record, _ in records):
            yield from ((record["at"], line) for record, line in records)
    # a history that is damaged, or of no run, is begun anew: it must not keep a run from going on
    except _DAMAGE:
        return


def _records(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    lines = path.read_text("utf-8").rstrip("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            # the run was killed while it wrote this
            if number == len(lines):
                return
            raise
        yield record, f"{line}\n"


def _within(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
