"""`leco train`, and the commands that take sd-scripts' flags."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from leco_plugin.commands.arguments import Commands
from leco_plugin.commands.codes import INTERRUPTED, OK
from leco_plugin.errors import LecoError
from leco_plugin.streams import write_lines


def add(commands: Commands) -> None:
    """Add `leco train`."""
    train = commands.add_parser("train", help="train a LoRA from a job file")
    train.add_argument("job", type=Path, metavar="JOB", help="job file (YAML or JSON)")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one option of the job")
    train.add_argument("--host", default="builtin", help="trainer that runs it (default: %(default)s)")
    train.set_defaults(command=_train)


def _train(options: argparse.Namespace) -> int:
    from leco_plugin.config.build import load_job, parse_overrides

    loaded = load_job(options.job, parse_overrides(options.set))
    write_lines(sys.stderr, (f"warning: {warning}" for warning in loaded.warnings))
    from leco_plugin.plugins import run_job

    return INTERRUPTED if run_job(loaded.job, host=options.host).interrupted else OK


def train_flags(arguments: Sequence[str], *, sdxl: bool) -> int:
    """Train from sd-scripts' flags; gives the exit code."""
    from leco_plugin.config.sd_scripts import load_flags

    loaded = load_flags(arguments, sdxl=sdxl)
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise LecoError("LECO trains in one process on one device", fix="accelerate launch --num_processes=1 ...")
    write_lines(sys.stderr, (*loaded.notes, *(f"warning: {warning}" for warning in loaded.warnings)))
    from leco_plugin.plugins import run_job

    return INTERRUPTED if run_job(loaded.job).interrupted else OK
