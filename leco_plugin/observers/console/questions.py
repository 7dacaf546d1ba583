"""Questions on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.prompt import Prompt


def ask(question: str, choices: Sequence[str] = ()) -> str:
    """The answer in words, asked for again while it is empty or none of ``choices``."""
    console = Console(stderr=True)
    while True:
        answer = Prompt.ask(f"[bold]{question}", console=console, choices=list(choices) or None).strip()
        if answer:
            return answer
