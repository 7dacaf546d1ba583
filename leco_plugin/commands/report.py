"""`leco report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from leco_plugin.commands.arguments import Commands
from leco_plugin.commands.codes import OK
from leco_plugin.commands.preview import add_model


def add(commands: Commands) -> None:
    """Add `leco report`."""
    about = "put a run on one page: what was asked, curves, settings, and pictures under a slider"
    report = commands.add_parser("report", help=about)
    report.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a LoRA file")
    report.add_argument("--output", type=Path, metavar="FILE", help="default: NAME.report.html beside the LoRA")
    report.add_argument("--no-pictures", action="store_true", help="draw none where the run has none, and show none")
    add_model(report)
    report.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    from leco_plugin.report.draw import Wanted
    from leco_plugin.report.write import report

    wanted = Wanted(model=options.model, device=options.device)
    report(options.run, options.output, pictures=not options.no_pictures, wanted=wanted)
    return OK
