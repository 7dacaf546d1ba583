"""`leco tune`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from leco_plugin.commands.arguments import Commands, real, whole
from leco_plugin.commands.codes import INTERRUPTED, OK

_TRY = "values to choose from, for one option; repeatable (default: ranges of rate, rank, steps, strength, ...)"
_STORAGE = "database of the study, such as postgresql://...; workers on several machines may share it (default: SQLite)"
_DRIFT = "drift beyond which no trial is the best, where 1 is the concept (default: %(default)s)"


def add(commands: Commands) -> None:
    """Add `leco tune`."""
    tune = commands.add_parser("tune", help="find settings of a job that reach the effect with the least besides")
    tune.add_argument("job", type=Path, metavar="JOB", help="job file (YAML or JSON)")
    tune.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one option of the job")
    tune.add_argument("--try", action="append", default=[], metavar="KEY=A,B,C", dest="tries", help=_TRY)
    tune.add_argument("--trials", type=whole(1, 10**6), default=20, metavar="N", help="default: %(default)s")
    tune.add_argument("--storage", metavar="URL", help=_STORAGE)
    tune.add_argument("--study", metavar="NAME", help="default: the job's name")
    above_zero = real(sys.float_info.min, sys.float_info.max)
    tune.add_argument("--drift-limit", type=above_zero, default=1.0, metavar="X", help=_DRIFT)
    tune.add_argument("--output", type=Path, metavar="DIR", help="default: NAME-tune in the job's training_folder")
    tune.set_defaults(command=_tune)


def _tune(options: argparse.Namespace) -> int:
    from leco_plugin.config.build import parse_overrides
    from leco_plugin.tune.run import Wanted, tune

    wanted = Wanted(options.trials, options.tries, options.storage, options.study, options.drift_limit, options.output)
    return OK if tune(options.job, parse_overrides(options.set), wanted) else INTERRUPTED
