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

_RAY = "train on a Ray cluster, a job a free GPU (or CPU); without an address one on this machine is started"


def add(commands: Commands) -> None:
    """Add `leco train`."""
    train = commands.add_parser("train", help="train LoRAs from job files")
    train.add_argument("jobs", type=Path, nargs="+", metavar="JOB", help="job file (YAML or JSON), or several")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one option of the job")
    train.add_argument("--host", default="builtin", help="trainer that runs it (default: %(default)s)")
    train.add_argument("--again", action="store_true", help="of several jobs, train also those that are finished")
    train.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS", help=_RAY)
    train.set_defaults(command=_train)


def _train(options: argparse.Namespace) -> int:
    from leco_plugin.config.build import load_job, parse_overrides

    overrides = parse_overrides(options.set)
    if len(options.jobs) > 1 or options.ray or options.again:
        from leco_plugin.commands.train_many import train_many

        return train_many(options.jobs, overrides, options.host, again=options.again, cluster=options.ray)
    loaded = load_job(options.jobs[0], overrides)
    _say(f"warning: {warning}" for warning in loaded.warnings)
    from leco_plugin.families.known import settle
    from leco_plugin.plugins import run_job

    job = settle(loaded.job, fetch=True).job
    return INTERRUPTED if run_job(job, host=options.host).interrupted else OK


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
