"""Stopping a run by a signal, in any host that lets us."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""Ctrl-C, a polite kill, a closed terminal, Windows' Ctrl-Break and closed window; each where it exists."""


class AtOnce(KeyboardInterrupt):
    """Ctrl-C of a user who does not want to wait any longer."""


@dataclass
class Stop:
    """Set by a signal: the step under way is finished and what there is is saved."""

    asked: bool = False


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Block in which a signal asks to stop, and Ctrl-C after that interrupts at once.

    No other signal interrupts: a closed terminal or a service manager may well send two of them.
    """
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked and number == signal.SIGINT:
            raise AtOnce
        stop.asked = True

    # signals reach the main thread only, and a host that runs us in another one has its own way to stop
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    # nohup has SIGHUP ignored, and means it
    heeded = [number for number in numbers if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heeded}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
