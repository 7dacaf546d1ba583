"""`leco calibrate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from leco_plugin.commands.arguments import Commands, real
from leco_plugin.commands.codes import OK
from leco_plugin.commands.subject import add_subject, asked

_EFFECT = "effect that strength 1 shall have (default: the whole concept gone, or the end of a slider)"
_LIMIT = "most that pictures of untouched prompts may move, where 1 is the concept (default: %(default)s)"


def add(commands: Commands) -> None:
    """Add `leco calibrate`."""
    about = "rewrite a LoRA so that strength 1 has the whole effect, and find the strengths it can be used at"
    calibrate = commands.add_parser("calibrate", help=about)
    calibrate.add_argument("file", type=Path, metavar="FILE", help="LoRA file of any trainer")
    add_subject(calibrate)
    calibrate.add_argument("--output", type=Path, metavar="FILE", help="default: FILE-calibrated")
    calibrate.add_argument("--in-place", action="store_true", help="overwrite FILE")
    above_zero = real(sys.float_info.min, sys.float_info.max)
    calibrate.add_argument("--effect", type=above_zero, metavar="X", help=_EFFECT)
    calibrate.add_argument("--drift-limit", type=above_zero, default=1.0, metavar="X", help=_LIMIT)
    calibrate.set_defaults(command=_calibrate)


def _calibrate(options: argparse.Namespace) -> int:
    from leco_plugin.lora.calibrate import calibrate

    output = options.file if options.in_place else options.output
    calibrate(options.file, asked(options), output, options.drift_limit, options.effect)
    return OK
