"""`leco demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from leco_plugin.commands.arguments import Commands, seed
from leco_plugin.commands.codes import INTERRUPTED, OK
from leco_plugin.tiny import BUILTIN


def add(commands: Commands) -> None:
    """Add `leco demo`."""
    demo = commands.add_parser("demo", help="train on a built-in tiny model and measure what the LoRA does")
    demo.add_argument("kind", nargs="?", choices=["slider", "erase"], default="slider", help="default: %(default)s")
    demo.add_argument("--model", choices=list(BUILTIN), default="builtin:tiny", help="default: %(default)s")
    demo.add_argument("--output", type=Path, metavar="DIR", help="default: leco_demo_slider or leco_demo_erase")
    demo.add_argument("--seed", type=seed, default=42, metavar="N", help="default: %(default)s")
    demo.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    from leco_plugin.demo.run import run_demo

    output = options.output or Path(f"leco_demo_{options.kind}")
    return OK if run_demo(options.kind, output, options.seed, options.model) else INTERRUPTED
