"""Pictures in a run: when they are due, and that no fault of whoever draws them costs the run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from leco_plugin.contracts import Pictures
from leco_plugin.engine.report import Report
from leco_plugin.errors import reason
from leco_plugin.events import Warned


class Sampling:
    """Has ``pictures`` drawn every so many steps, with the weights that would be saved then."""

    def __init__(
        self, pictures: Pictures | None, every: int, weights: Callable[[], AbstractContextManager[None]], report: Report
    ) -> None:
        self._pictures, self._every, self._weights, self._report = pictures, every, weights, report
        self._drawn_at: int | None = None

    def after(self, step: int) -> None:
        """Draw if it is time after ``step`` steps."""
        if step % self._every == 0:
            self.draw(step)

    def draw(self, step: int) -> None:
        """Draw, unless that was done after as many steps."""
        if self._pictures is None or self._drawn_at == step:
            return
        self._drawn_at = step
        try:
            with self._weights():
                for event in self._pictures.draw(step):
                    self._report(event)
        # drawing needs more memory than a step, and a disk that is not full: training has neither need
        except (Exception, SystemExit) as error:  # noqa: BLE001
            self._report(Warned(f"pictures could not be drawn, and no more are tried: {reason(error)}"))
            self._pictures = None
