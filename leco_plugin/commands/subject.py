"""The arguments of commands that measure LoRA files: which model, which prompts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from leco_plugin.commands.arguments import prompt, whole

if TYPE_CHECKING:
    from leco_plugin.lora.subject import Asked


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Add what `asked` reads."""
    parser.add_argument("--model", metavar="MODEL", help="default: what the file or the job tells")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="prompt file or job; default: what the file tells")
    about = "a prompt that shall stay"
    parser.add_argument("--untouched", type=prompt, action="append", default=[], metavar="PROMPT", help=about)
    parser.add_argument(
        "--seeds", type=whole(1, 1000), default=8, metavar="N", help="noise samples a pair (%(default)s)"
    )
    parser.add_argument("--device", metavar="DEVICE", help="default: auto, or the job's")


def asked(options: argparse.Namespace) -> Asked:
    """What the command line says of them."""
    from leco_plugin.lora.subject import Asked

    return Asked(options.model, options.prompts, tuple(options.untouched), options.device, options.seeds)
