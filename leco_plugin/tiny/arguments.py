"""What the commands of this package share: plain lines, numbers within bounds, mistakes in one sentence."""

import argparse
import math
from dataclasses import dataclass
from typing import NoReturn


def say(line: str) -> None:
    """Print ``line`` at once, also into a file."""
    print(line, flush=True)  # noqa: T201


@dataclass(frozen=True)
class Number:
    """An argparse type: a number of ``kind`` within bounds."""

    kind: type[int] | type[float]
    low: float
    high: float = math.inf

    def __call__(self, text: str) -> int | float:
        """Return the number that ``text`` writes."""
        try:
            number = self.kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' * (self.kind is int)}number") from None
        if not self.low <= number <= self.high:
            raise argparse.ArgumentTypeError(f"{text} is out of range, which is {self.low:g} to {self.high:g}")
        return number


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Print ``message`` and exit with 2."""
        self.exit(2, f"{self.prog}: {message}\n")
