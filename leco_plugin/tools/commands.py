"""The arguments of the commands on LoRA files; what runs them is imported when it is asked for."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from leco_plugin.config.strengths import parse_strengths

if TYPE_CHECKING:
    from leco_plugin.tools.subject import Asked

Commands = argparse._SubParsersAction  # the type that argparse has for it


def add_tools(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add evaluate, calibrate and inspect to ``commands``."""
    _add_evaluate(commands)
    _add_calibrate(commands)
    _add_inspect(commands)


def _add_evaluate(commands: Commands[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser("evaluate", help="measure what LoRA files do, at several strengths, side by side")
    evaluate.add_argument("files", nargs="+", type=Path, metavar="FILE", help="LoRA file of any trainer")
    _add_subject(evaluate)
    evaluate.add_argument("--strengths", default="-2..2", metavar="A..B", help="A..B:STEP or a list (%(default)s)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write every figure to this file")
    evaluate.set_defaults(command=_evaluate)
    take_strengths_below_zero(evaluate)


def take_strengths_below_zero(parser: argparse.ArgumentParser) -> None:
    """Let ``-2..2`` be the value of a flag; argparse would take it for a flag itself."""
    parser._negative_number_matcher = re.compile(r"-[\d.]")


def _add_calibrate(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "rewrite a LoRA so that strength 1 reaches its goal, and find the strengths it can be used at"
    calibrate = commands.add_parser("calibrate", help=about)
    calibrate.add_argument("file", type=Path, metavar="FILE", help="LoRA file of any trainer")
    _add_subject(calibrate)
    calibrate.add_argument("--output", type=Path, metavar="FILE", help="default: FILE-calibrated")
    calibrate.add_argument("--in-place", action="store_true", help="overwrite FILE")
    calibrate.add_argument("--drift-limit", type=_positive, default=4.0, metavar="X", help=_LIMIT)
    calibrate.set_defaults(command=_calibrate)


_LIMIT = "most that untouched prompts may move, squared: 1 is as much as the edit itself (default: %(default)s)"


def _add_inspect(commands: Commands[argparse.ArgumentParser]) -> None:
    inspect = commands.add_parser("inspect", help="show what is in a LoRA file")
    inspect.add_argument("file", type=Path, metavar="FILE", help="LoRA file of any trainer")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    inspect.set_defaults(command=_inspect)


def _add_subject(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="MODEL", help="default: what the file or the job tells")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="prompt file or job; default: what the file tells")
    parser.add_argument("--untouched", action="append", default=[], metavar="PROMPT", help="a prompt that shall stay")
    parser.add_argument("--seeds", type=_count, default=8, metavar="N", help="noise samples a pair (%(default)s)")
    parser.add_argument("--device", metavar="DEVICE", help="default: auto, or the job's")


def _asked(options: argparse.Namespace) -> Asked:
    from leco_plugin.tools.subject import Asked

    return Asked(options.model, options.prompts, tuple(options.untouched), options.device, options.seeds)


def _evaluate(options: argparse.Namespace) -> int:
    from leco_plugin.tools.evaluate import evaluate

    evaluate(options.files, _asked(options), parse_strengths(options.strengths), options.json)
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from leco_plugin.tools.calibrate import calibrate

    output = options.file if options.in_place else options.output
    calibrate(options.file, _asked(options), output, options.drift_limit)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from leco_plugin.tools.inspect import inspect

    inspect(options.file, json_output=options.json)
    return 0


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise ValueError
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number
