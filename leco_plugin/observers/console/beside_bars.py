"""Lines on a console where a host draws its bars."""

from __future__ import annotations

import sys


class BesideBars:
    """Writes above the bars of tqdm, which both hosts draw with."""

    SECONDS = 30.0
    """Between two lines about steps: the bars say most of it."""

    @property
    def encoding(self) -> str:
        """The console's."""
        return getattr(sys.stdout, "encoding", None) or "utf-8"

    def write(self, text: str, /) -> int:
        """Write whole lines where they break no bar."""
        from tqdm import tqdm

        tqdm.write(text, file=sys.stdout, end="")
        return len(text)

    def flush(self) -> None:
        """Have it seen at once."""
        sys.stdout.flush()
