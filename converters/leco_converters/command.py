"""The command: arguments in, report out, exit code back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from leco_converters.convert import Conversion, Request, convert
from leco_plugin.errors import LecoError
from leco_plugin.streams import problem_fields, write_json, write_lines

OK, LOST, REFUSED = 0, 1, 2
_DESCRIPTION = "Convert files of ai-toolkit, LECO and Concept Sliders to prompt TOML, or prompt TOML to a job."
_TO = "toml: prompts; leco-job: a job for any host (the default for TOML); ai-toolkit: a job of its own slider"


def main(arguments: Sequence[str] | None = None, program: str = "python -m leco_converters") -> int:
    """Run the command; returns 0 done, 1 strict and something lost, 2 refused with a reason."""
    return run(_parser(program).parse_intermixed_args(arguments), sys.stdout, sys.stderr)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=_DESCRIPTION)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="YAML, JSON or TOML file")
    parser.add_argument("target", type=Path, nargs="?", metavar="TARGET", help="default: beside the source")
    parser.add_argument("--to", choices=["toml", "ai-toolkit", "leco-job"], help=_TO)
    parser.add_argument("--job", nargs="?", type=Path, const=True, default=False, metavar="FILE",
                        help="write the settings of the run to a job file too")  # fmt: skip
    parser.add_argument("--flags", action="store_true", help="print the command line for sd-scripts too")
    parser.add_argument("--model", default="", metavar="NAME", help="base model, where the source does not say")
    parser.add_argument("--strict", action="store_true", help="write nothing, and exit with 1, if anything is lost")
    parser.add_argument("--force", action="store_true", help="replace files that are there; never the source")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    return parser


def run(options: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    """Convert, and report on ``out``; what is refused is said on ``err``, or with ``--json`` in the object."""
    request = Request(**{name: value for name, value in vars(options).items() if name != "json"})
    try:
        conversion = convert(request)
    except LecoError as error:
        if options.json:
            write_json(out, {"errors": [problem_fields(problem) for problem in error.problems]})
        write_lines(err, map(str, error.problems))
        return REFUSED
    refused = options.strict and conversion.report.lost
    if options.json:
        write_json(out, _report(conversion))
    else:
        write_lines(out, _lines(conversion))
    if refused:
        write_lines(err, ["nothing is written, because something has no counterpart and --strict is set"])
    return LOST if refused else OK


def _lines(conversion: Conversion) -> Iterable[str]:
    yield from conversion.report.lines()
    for path in conversion.written:
        yield f"wrote {path}"
    yield f"{conversion.pairs} training pair{'s' if conversion.pairs != 1 else ''}"
    if conversion.flags:
        yield conversion.flags


def _report(conversion: Conversion) -> dict[str, object]:
    return {
        "from": conversion.origin,
        "written": [str(path) for path in conversion.written],
        "pairs": conversion.pairs,
        "lost": conversion.report.lost,
        "notes": [note.fields() for note in conversion.report.notes],
        "flags": conversion.flags,
    }
