"""What the commands of this package share: plain lines, whole numbers within bounds, mistakes in one sentence."""

import argparse
from dataclasses import dataclass
from typing import NoReturn


def say(line: str) -> None:
    """Print ``line`` at once, also into a file."""
    print(line, flush=True)  # noqa: T201


@dataclass(frozen=True)
class WholeNumber:
    """An argparse type: a whole number of at least ``low``."""

    low: int

    def __call__(self, text: str) -> int:
        """Return the number that ``text`` writes."""
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < self.low:
            raise argparse.ArgumentTypeError(f"{number} is too small, at least {self.low} is needed")
        return number


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Print ``message`` and exit with 2."""
        self.exit(2, f"{self.prog}: {message}\n")
