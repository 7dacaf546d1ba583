"""`leco evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from leco_plugin.commands.arguments import Commands, take_strengths_below_zero
from leco_plugin.commands.codes import OK
from leco_plugin.commands.subject import add_subject, asked


def add(commands: Commands) -> None:
    """Add `leco evaluate`."""
    evaluate = commands.add_parser("evaluate", help="measure what LoRA files do, at several strengths, side by side")
    evaluate.add_argument("files", nargs="+", type=Path, metavar="FILE", help="LoRA file of any trainer")
    add_subject(evaluate)
    evaluate.add_argument("--strengths", default="-2..2", metavar="A..B", help="A..B:STEP or a list (%(default)s)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write every figure to this file")
    pictures = "draw what every file makes of its targets, beside one another on this HTML page"
    evaluate.add_argument("--pictures", type=Path, metavar="FILE", help=pictures)
    evaluate.set_defaults(command=_evaluate)
    take_strengths_below_zero(evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from leco_plugin.config.strengths import parse_strengths
    from leco_plugin.lora.evaluate import evaluate

    strengths = parse_strengths(options.strengths)
    found = evaluate(options.files, asked(options), strengths, options.json)
    if options.pictures:
        from leco_plugin.report.compare import compare

        compare(found, strengths, options.pictures)
    return OK
