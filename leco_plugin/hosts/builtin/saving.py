"""When the files of a run are written, and that no fault of a disk costs what was learnt."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from leco_plugin.contracts import Denoiser, Network
from leco_plugin.core.state import StateTree
from leco_plugin.engine.report import Report
from leco_plugin.errors import LecoError, TrainingError, reason
from leco_plugin.events import Saved, Warned
from leco_plugin.hosts.builtin.loop import Loop, own_part
from leco_plugin.hosts.builtin.output import Output
from leco_plugin.hosts.builtin.parallel import Alone
from leco_plugin.hosts.builtin.resume import States

RESCUED = "leco_rescued"
"""Folder, in the user's own or in that of temporary files, for what a run's own folder does not take."""
_FIX = "see that the disk has room and nothing is in the way there, then move it to its place"


@dataclass
class Saving:
    """Writes the LoRAs and states of one run, as the loop has them at that moment."""

    output: Output
    states: States
    denoiser: Denoiser
    network: Network
    loop: Loop
    report: Report
    crew: Alone
    _troubles: list[str] = field(default_factory=list)
    _fix: str = _FIX

    def __post_init__(self) -> None:
        # what is in the way of every file is said before the first step
        self._metadata(0)

    def in_between(self, step: int) -> Path | None:
        """Write the LoRA that is due after ``step`` steps, and a state; what fails is said, and training goes on.

        Returns the LoRA, None where it was not written.
        """
        path = self.output.path(step)
        written = self._try(path, lambda: self._write(path, step))
        if written:
            self.output.kept.add(step, path)
        if self.output.job.save.save_state:
            folder = self.states.path(step)
            if self._try(folder, lambda: self._write_state(folder, step, self._loop_state(), {})):
                self.states.kept.add(step, folder)
        return path if written else None

    def rescue(self, step: int) -> Path | None:
        """Write the LoRA of a run that broke off; no other file goes for it. None where no folder takes it."""
        return self._somewhere(self._emergency(step), lambda target: self._write(target, step))

    def end(self, step: int, *, interrupted: bool) -> Path:
        """Write what a run leaves, the state first, elsewhere where its folder does not take it; returns the LoRA.

        Raises TrainingError where no folder takes the LoRA.
        """
        path = self.output.path(step if interrupted else None)
        save = self.output.job.save
        if save.save_state or save.save_state_on_train_end:
            # of a run that was stopped, the file that comes next is one of those that it keeps
            files = {step: path.name} if interrupted else {}
            folder = self.states.path(step if interrupted else None)
            state = cache(self._loop_state)
            if self._somewhere(folder, lambda target: self._write_state(target, step, state(), files)) and interrupted:
                self.states.kept.add(step, folder)
        written = self._somewhere(path, lambda target: self._write(target, step, final=not interrupted))
        if written is None:
            self.refuse_troubles()
        elif interrupted:
            self.output.kept.add(step, path)
        elif save.sidecar:
            self._try(written.with_suffix(".json"), lambda: self.output.write_sidecar(written, self._metadata(step)))
        return written or path

    def _emergency(self, step: int) -> Path:
        path = self.output.path(step)
        return path.with_stem(f"{path.stem}-emergency")

    def refuse_troubles(self) -> None:
        """Raise TrainingError with where the files of the end are, if not where they should be."""
        if self._troubles:
            raise TrainingError("; ".join(self._troubles), fix=self._fix)

    def _metadata(self, step: int) -> dict[str, str]:
        return self.output.metadata(self.denoiser, step, self.loop.progress.figures)

    def _write(self, path: Path, step: int, *, final: bool = False) -> None:
        with self.loop.averaged():
            self.output.write(path, self.network, self._metadata(step))
        self.report(Saved(path, step, final))

    def _loop_state(self) -> dict[str, StateTree]:
        """The loop's, with what differs in other processes."""
        state = self.loop.state()
        _, *others = self.crew.collect(own_part(state))
        return {"loop": state, **({"others": others} if others else {})}

    def _write_state(self, folder: Path, step: int, state: Mapping[str, StateTree], files: Mapping[int, str]) -> None:
        kept: StateTree = {**self.output.kept.names(), **files}
        tree: StateTree = {**state, "files": kept, "states": self.states.kept.names()}
        self.states.write(folder, tree, step)
        self.report(Saved(folder, step, final=False))

    def _try(self, path: Path, write: Callable[[], None]) -> bool:
        try:
            write()
        # a network may be somebody else's code, and a disk that is full now may have room later
        except Exception as error:
            if error is self.crew.failure:
                raise
            self.report(Warned(f"{path} could not be written, and the run goes on: {_why(error)}"))
            return False
        return True

    def _somewhere(self, path: Path, write: Callable[[Path], None]) -> Path | None:
        """Write to ``path``, else to the first other folder that takes it; returns where it is."""
        failure = ""
        for target in (path, *(folder / f"{self.states.run}-{path.name}" for folder in _other_folders())):
            try:
                write(target)
            except Exception as error:  # noqa: BLE001 - as above
                failure = failure or _why(error)
                self._fix = (error.problems[0].fix if isinstance(error, LecoError) else "") or self._fix
                continue
            if target != path:
                self._troubles.append(f"{path} could not be written ({failure}), and is saved as {target}")
            return target
        self._troubles.append(f"{path} could not be written, nor anywhere else: {failure}")
        return None


class Helping(Saving):
    """In a process that is not the first: writes nothing, and hands over its part of a state where one is due."""

    def __post_init__(self) -> None:
        """Nothing is in the way of files that are not written."""

    def in_between(self, step: int) -> Path | None:
        """Help with the state after ``step`` steps."""
        if self.output.job.save.save_state:
            self._hand_over()
        return None

    def rescue(self, step: int) -> Path | None:
        """Where the first process saves the LoRA of a run that broke off."""
        return self._emergency(step)

    def end(self, step: int, *, interrupted: bool) -> Path:
        """Help with what a run leaves; returns where the LoRA will be."""
        save = self.output.job.save
        if save.save_state or save.save_state_on_train_end:
            self._hand_over()
        return self.output.path(step if interrupted else None)

    def _hand_over(self) -> None:
        try:
            state = self.loop.state()
        # of a kind that cannot be kept, in all processes: the first one says so
        except TrainingError:
            return
        self.crew.collect(own_part(state))


def _why(error: Exception) -> str:
    # the path is said already
    return error.strerror if isinstance(error, OSError) and error.strerror else reason(error)


def _other_folders() -> Iterator[Path]:
    for find in (Path.home, tempfile.gettempdir):
        with suppress(OSError, RuntimeError):
            yield Path(find()) / RESCUED
