"""The console as a plugin."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Observer
from leco_plugin.hookspecs import hookimpl


@hookimpl
def leco_observers(job: JobConfig) -> Iterable[Observer]:
    """The rich view on a terminal, else plain lines."""
    from rich.console import Console

    from leco_plugin.console.plain_view import PlainView
    from leco_plugin.console.rich_view import RichView

    console = Console()
    return [RichView(console) if console.is_terminal else PlainView(sys.stdout)]
