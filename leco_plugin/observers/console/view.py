"""Which view a run gets."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console

from leco_plugin.contracts import Observer
from leco_plugin.observers.console.plain_view import PlainView
from leco_plugin.observers.console.rich_view import RichView


def console_view(stream: TextIO) -> Observer:
    """The rich view on a terminal, else plain lines."""
    console = Console(file=stream)
    return RichView(console) if console.is_terminal else PlainView(stream)
