"""`leco train`, and the commands that take sd-scripts' flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from leco_plugin.commands.arguments import Commands
from leco_plugin.commands.codes import INTERRUPTED, OK
from leco_plugin.launched import NOT_STARTED, one_instead_of_several, place
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
    _say(f"warning: {warning}" for warning in loaded.warnings)
    from leco_plugin.plugins import run_job

    return INTERRUPTED if run_job(loaded.job, host=options.host).interrupted else OK


def train_flags(arguments: Sequence[str], *, sdxl: bool) -> int:
    """Train from sd-scripts' flags; gives the exit code."""
    from leco_plugin.config.sd_scripts import load_flags

    loaded = load_flags(arguments, sdxl=sdxl)
    _say((*loaded.notes, *(f"warning: {warning}" for warning in loaded.warnings)))
    from leco_plugin.plugins import run_job

    return INTERRUPTED if run_job(loaded.job).interrupted else OK


def _say(lines: Iterable[str]) -> None:
    """Write to stderr, once for all processes of a run."""
    if place().first:
        write_lines(sys.stderr, lines)
        if one_instead_of_several():
            write_lines(sys.stderr, [f"warning: {NOT_STARTED}"])
