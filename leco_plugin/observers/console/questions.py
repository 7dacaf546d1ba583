"""Questions on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.prompt import Prompt

from leco_plugin.errors import ConfigError


def ask(question: str, choices: Sequence[str] = (), check: Callable[[str], object] = str) -> str:
    """The answer, asked for again while it is empty, none of ``choices`` or refused by ``check`` with a ConfigError.

    Raises KeyboardInterrupt where the answers end, too: whoever types Ctrl-D wants no more of them.
    """
    console = Console(stderr=True)
    while True:
        try:
            answer = Prompt.ask(f"[bold]{question}", console=console, choices=list(choices) or None).strip()
            if answer:
                check(answer)
                return answer
            console.print("[red]an answer is needed[/]; Ctrl-C ends this, and nothing is written")
        except (EOFError, KeyboardInterrupt):
            # what follows begins its own line
            console.print()
            raise KeyboardInterrupt from None
        except ConfigError as error:
            console.print(f"[red]{error.problems[0].message}[/]; {error.problems[0].fix}", highlight=False)
