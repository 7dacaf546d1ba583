"""Events to observers, and figures that wait for the device only when they are reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import psutil
import torch
from torch import Tensor

from leco_plugin.contracts import Observer
from leco_plugin.core.state import StateTree
from leco_plugin.engine.progress import Progress, Readings
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


class Meter:
    """Collects what steps measured, on the device, and sums it up now and then."""

    def __init__(self, device: torch.device, steps: int, progress: Progress) -> None:
        self._device, self._steps, self._progress = device, steps, progress
        self._losses: list[Tensor] = []
        self._samples = 0
        self._since = time.perf_counter()

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

    def sum_up(self, step: int, learning_rate: float) -> StepDone:
        """The event for everything since the last one; waits for the device."""
        now = time.perf_counter()
        event = StepDone(
            step=step,
            steps=self._steps,
            loss=float(torch.stack(self._losses).mean()),
            learning_rate=learning_rate,
            **self._progress.figures,
            samples=self._samples,
            seconds=now - self._since,
            memory_bytes=_memory(self._device),
        )
        self._losses, self._samples, self._since = [], 0, now
        return event


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)
