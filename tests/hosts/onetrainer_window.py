"""Opens the real OneTrainer's window with LECO in it, presses *Start Training*, and prints what it shows.

Usage, with the host's Python: ``python onetrainer_window.py [--root DIR] PROMPTS ...``, as ``leco host ui onetrainer``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["QT_QPA_PLATFORM"] = "offscreen"

# before PySide6, as the host's own script has them
import matplotlib.pyplot  # noqa: F401
import pydantic._internal._validators  # noqa: F401
from PySide6 import QtCore, QtWidgets

from leco_plugin.commands.main import main

_PATIENCE = 200
"""Looks, one a second, after which it gives up."""


class User:
    """Looks at the window once a second."""

    def __init__(self) -> None:
        self.looks, self.pressed, self.seen = 0, False, ""

    def look(self) -> None:
        """Press what is to be pressed; end the program once the run has ended."""
        self.looks += 1
        asked = QtWidgets.QApplication.activeModalWidget()
        if asked:
            _say("asked:", *(label.text() for label in asked.findChildren(QtWidgets.QLabel)))
            self._press("Yes", "OK", within=asked)
        elif not self.pressed and self.looks > 3:
            self.pressed = True
            QtCore.QTimer.singleShot(0, lambda: self._press("Start Training"))
        shown = self._shown()
        if shown != self.seen:
            self.seen = shown
            _say("shown:", shown)
        if self.looks > _PATIENCE or (self.pressed and shown.startswith(("Stopped", "Error"))):
            os._exit(0)

    def _press(self, *texts: str, within: Any = None) -> None:
        everywhere = QtWidgets.QApplication.allWidgets()
        buttons = within.findChildren(QtWidgets.QPushButton) if within else everywhere
        for button in buttons:
            if isinstance(button, QtWidgets.QPushButton) and button.text().replace("&", "") in texts:
                button.click()
                return

    def _shown(self) -> str:
        labels = [w.text() for w in QtWidgets.QApplication.allWidgets() if isinstance(w, QtWidgets.QLabel)]
        return next((text for text in labels if text.startswith(("Stopped", "Error", "Training ..."))), "")


def _say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def watched_by(user: User) -> Any:
    """Stands for the application's ``exec``."""
    own = QtWidgets.QApplication.exec

    def run(*_: Any) -> int:
        timer = QtCore.QTimer()
        timer.timeout.connect(user.look)
        timer.start(1000)
        return own()

    return staticmethod(run)


if __name__ == "__main__":
    QtWidgets.QApplication.exec = watched_by(User())
    sys.exit(main(["host", "ui", "onetrainer", *sys.argv[1:]]))
