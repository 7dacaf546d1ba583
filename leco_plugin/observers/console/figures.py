"""Figures in words, the same for every view."""

from __future__ import annotations

from leco_plugin.events import PicturesDrawn, RunEnded, Saved, StepDone


def memory(number: int) -> str:
    """Bytes as GiB or MiB."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percentage(fraction: float | None) -> str:
    """A fraction as a percentage; a dash while nothing was measured."""
    # rounded first: just below 0 is no -0 %
    return "-" if fraction is None else f"{100 * round(fraction, 2) + 0.0:.0f} %"


def amount(figure: float | None) -> str:
    """An effect, or what has its unit, where 1 is the whole concept; a dash while nothing was measured."""
    # rounded first: just below 0 is no -0.00
    return "-" if figure is None else f"{round(figure, 2) + 0.0:.2f}"


class Pace:
    """Samples per second and time left, smoothed over the last steps."""

    def __init__(self) -> None:
        self._samples = self._seconds = self._steps = 0.0
        self._last = 0

    def add(self, event: StepDone) -> tuple[float, float]:
        """(samples per second, seconds left) after ``event``."""
        fade = 0.95
        self._samples = fade * self._samples + event.samples
        self._seconds = fade * self._seconds + event.seconds
        self._steps = fade * self._steps + (event.step - self._last)
        self._last = event.step
        left = (event.steps - event.step) * self._seconds / self._steps
        return self._samples / max(self._seconds, 1e-9), left


def saved(event: Saved) -> str:
    """One line about a file."""
    return f"saved {event.path}" if event.final else f"saved {event.path} (step {event.step})"


def drawn(event: PicturesDrawn) -> str:
    """One line about the pictures after a step; nothing before the last of them."""
    if event.number < event.of:
        return ""
    files = f"{event.of} files" if event.of > 1 else event.path.name
    return f"drew {files} in {event.path.parent} (step {event.step})"


def ended(event: RunEnded) -> str:
    """One line about how the run ended."""
    time = duration(event.seconds)
    if event.interrupted:
        return f"stopped after {event.steps} steps in {time}; what was learned so far is in {event.path}"
    return f"finished {event.steps} steps in {time}{_came_to(event)}; the LoRA is {event.path}"


def _came_to(event: RunEnded) -> str:
    if event.effect is None:
        return ""
    means = f": {event.means}" if event.means else ""
    return (
        f", effect {amount(event.effect)}{means}; side effect {amount(event.side_effect)}, "
        f"drift of other prompts {amount(event.drift)}, goal reached {percentage(event.goal_reached)}"
    )
