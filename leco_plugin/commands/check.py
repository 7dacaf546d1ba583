"""`leco check`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from leco_plugin.commands.arguments import Commands

_HOST = "another trainer, as `leco host` lists them, and what its run command takes: JOB, or CONFIG PROMPTS"
_MODEL = "load the model (default: the job's), and measure what it makes of the prompts"


def add(commands: Commands) -> None:
    """Add `leco check`."""
    check = commands.add_parser("check", help="show what a job or prompt file means, and what it needs")
    check.add_argument("file", type=Path, nargs="+", metavar="FILE", help="job file or prompt file")
    check.add_argument("--host", metavar="HOST", help=_HOST)
    check.add_argument("--all", action="store_true", help="show every pair, every option, and what memory is for")
    check.add_argument("--model", nargs="?", const="", metavar="MODEL", help=_MODEL)
    check.add_argument("--no-estimate", action="store_true", help="leave memory and time out, which take seconds")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.set_defaults(command=_check)


def _check(options: argparse.Namespace) -> int:
    from leco_plugin.commands.check_file import check, check_hosted
    from leco_plugin.commands.tellers import Plain, Teller, Ways
    from leco_plugin.errors import ConfigError

    ways = Ways(options.json, not options.no_estimate, options.all)
    teller: Teller = Plain(sys.stdout)
    if sys.stdout.isatty():
        from leco_plugin.observers.console.pages import Page

        teller = Page()
    if options.host not in (None, "builtin"):
        return check_hosted(options.host, options.file, ways, teller, sys.stdout, sys.stderr)
    if len(options.file) > 1:
        raise ConfigError(
            "one file is checked at a time", fix="--host onetrainer CONFIG PROMPTS for a run in OneTrainer"
        )
    (options.file,) = options.file
    if options.model is not None:
        from leco_plugin.commands.check_model import check_with_model

        return check_with_model(options.file, options.model or None, ways, teller, sys.stdout, sys.stderr)
    return check(options.file, ways, teller, sys.stdout, sys.stderr)
