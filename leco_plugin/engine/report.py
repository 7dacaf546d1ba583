"""Events to observers, and figures that wait for the device only when they are reported."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import psutil
import torch
from torch import Tensor

from leco_plugin.contracts import Observer
from leco_plugin.core.noise import Arriving
from leco_plugin.core.state import StateTree
from leco_plugin.engine.progress import FIGURES, Progress, Readings
from leco_plugin.engine.step import StepResult
from leco_plugin.engine.stop import AtOnce
from leco_plugin.errors import reason
from leco_plugin.events import Event, StepDone, Warned

Part = tuple[list[float], int, Readings]
"""Losses, samples and readings of one process."""


class Report:
    """Hands every event to every observer; one that raises is named and dropped, and the run goes on."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = list(observers)

    def __call__(self, event: Event) -> None:
        """Notify every observer of ``event``."""
        failed: list[tuple[Observer, BaseException]] = []
        for observer in self._observers:
            try:
                observer.notify(event)
            except AtOnce:
                raise
            # an observer is somebody else's code: no fault of it may cost a training run, and it may not end one
            except BaseException as error:  # noqa: BLE001
                failed.append((observer, error))
        # by identity: somebody else's code may also say that two observers are equal
        dropped = {id(observer) for observer, _ in failed}
        self._observers = [observer for observer in self._observers if id(observer) not in dropped]
        for observer, raised in failed:
            self(Warned(f"{type(observer).__name__} failed and was switched off: {reason(raised)}"))


@dataclass(frozen=True)
class _Asked:
    """A report whose figures are on their way."""

    event: StepDone
    """All of it but the figures."""
    pairs: list[int]
    beside: int
    figures: Arriving
    """The loss, what was asked for beside it, and a row for each of the pairs."""


class Meter:
    """Collects what steps measured, on the device, and sums it up now and then."""

    def __init__(self, device: torch.device, steps: int, progress: Progress) -> None:
        self._device, self._steps, self._progress = device, steps, progress
        self._losses: list[Tensor] = []
        self._samples = 0
        self._since = time.perf_counter()
        self._asked: list[_Asked] = []

    def start(self) -> None:
        """Time runs from now on."""
        self._since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Block whose time is not that of steps."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def add(self, result: StepResult) -> None:
        """Take in one step."""
        self._losses.append(result.loss)
        self._samples += result.samples
        self._progress.add(result.measured)

    def share(self, exchange: Callable[[Part], Sequence[Part]]) -> None:
        """Have all that was measured in several processes since the last report; ``exchange`` gives what each has."""
        parts = exchange(([float(loss) for loss in self._losses], self._samples, self._progress.pending()))
        self._losses = [torch.tensor(loss) for losses, _, _ in parts for loss in losses]
        self._samples = sum(samples for _, samples, _ in parts)
        for _, _, readings in parts:
            self._progress.take(readings)

    def state(self) -> StateTree:
        """What was measured and not yet reported."""
        return {"losses": self._losses, "samples": self._samples, "progress": self._progress.state()}

    def restore(self, state: StateTree) -> None:
        """Go on measuring from there."""
        stored = cast(Mapping[str, Any], state)
        self._losses = [loss.to(self._device) for loss in stored["losses"]]
        self._samples = stored["samples"]
        self._progress.restore(stored["progress"])

    def ask(self, step: int, learning_rate: float, *beside: Tensor) -> None:
        """Send for the figures of everything since the last report, and for ``beside``, each (); nothing waits."""
        now, (pairs, rows) = time.perf_counter(), self._progress.gather()
        loss = torch.stack(self._losses).mean().float()
        parts = [loss[None], *(one.float()[None] for one in beside), rows.flatten()]
        event = StepDone(
            step=step,
            steps=self._steps,
            loss=math.nan,
            learning_rate=learning_rate,
            goal_reached=None,
            samples=self._samples,
            seconds=now - self._since,
            memory_bytes=_memory(self._device),
        )
        self._asked.append(
            _Asked(event, pairs, len(beside), Arriving(torch.cat([part.to(loss.device) for part in parts])))
        )
        self._losses, self._samples, self._since = [], 0, now

    def answers(self, *, wait: bool) -> Iterator[tuple[StepDone, list[float]]]:
        """The reports whose figures are there, or that are waited for, and what was asked for beside them."""
        while self._asked and (wait or self._asked[0].figures.there):
            asked = self._asked.pop(0)
            numbers, first = asked.figures.read(), 1 + asked.beside
            rows = numbers[first:].reshape(len(asked.pairs), len(FIGURES)).tolist()
            self._progress.take(list(zip(asked.pairs, rows, strict=True)))
            loss, *beside = numbers[:first].tolist()
            figures: dict[str, Any] = self._progress.figures
            yield replace(asked.event, loss=loss, **figures), beside

    def sum_up(self, step: int, learning_rate: float) -> StepDone:
        """The event for everything since the last one; waits for the device."""
        self.ask(step, learning_rate)
        *_, (event, _) = self.answers(wait=True)
        return event


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)
