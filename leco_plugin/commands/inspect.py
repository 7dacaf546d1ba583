"""`leco inspect`."""

from __future__ import annotations

import argparse
from pathlib import Path

from leco_plugin.commands.arguments import Commands
from leco_plugin.commands.codes import OK


def add(commands: Commands) -> None:
    """Add `leco inspect`."""
    inspect = commands.add_parser("inspect", help="show what is in a LoRA file")
    inspect.add_argument("file", type=Path, metavar="FILE", help="LoRA file of any trainer")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    inspect.set_defaults(command=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from leco_plugin.lora.inspect import inspect

    inspect(options.file, json_output=options.json)
    return OK
