"""Stopping a run by a signal, in any host that lets us."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Set by Ctrl-C or SIGTERM: the step under way is finished and what there is is saved."""

    asked: bool = False


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Block in which the first SIGINT or SIGTERM asks to stop and a second one interrupts at once."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    # signals reach the main thread only, and a host that runs us in another one has its own way to stop
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
