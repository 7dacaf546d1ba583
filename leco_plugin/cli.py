"""The command `leco`: thin; what the user can put right ends here with exit code 2 and no traceback."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from leco_plugin import __version__
from leco_plugin.errors import LecoError
from leco_plugin.hosts.command import add_host
from leco_plugin.show.commands import add_show
from leco_plugin.streams import write_lines
from leco_plugin.tools.commands import add_tools

OK, REFUSED, INTERRUPTED = 0, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 refused with a reason, 130 stopped by the user."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return _guarded(lambda: command(options))


def train_from_flags(arguments: Sequence[str] | None = None, *, sdxl: bool) -> int:
    """Train from sd-scripts' flags, those of this program where ``arguments`` is absent; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return _guarded(lambda: _train_flags(given, sdxl=sdxl))


def _guarded(command: Callable[[], int]) -> int:
    try:
        return command()
    except LecoError as error:
        write_lines(sys.stderr, map(str, error.problems))
        return REFUSED
    except BrokenPipeError:
        # whoever read has read enough, as head does; what is left in the buffer would fail again at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        write_lines(sys.stderr, ["stopped at once; only what had been saved before is there"])
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="leco", description="Train LECO LoRAs from prompts alone.")
    parser.add_argument("--version", action="version", version=f"leco_plugin {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_check(commands)
    _add_demo(commands)
    _add_convert(commands)
    add_host(commands)
    add_tools(commands)
    add_show(commands)
    return parser


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser("train", help="train a LoRA from a job file")
    train.add_argument("job", type=Path, metavar="JOB", help="job file (YAML or JSON)")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one option of the job")
    train.add_argument("--host", default="builtin", help="trainer that runs it (default: %(default)s)")
    train.set_defaults(command=_train)


_CHECK_MODEL = "load the model (default: the job's), and measure what it makes of the prompts"


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = commands.add_parser("check", help="show what a job or prompt file means, and what it needs")
    check.add_argument("file", type=Path, metavar="FILE", help="job file or prompt file")
    check.add_argument("--model", nargs="?", const="", metavar="MODEL", help=_CHECK_MODEL)
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.set_defaults(command=_check)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser("demo", help="train on the built-in tiny model and measure what the LoRA does")
    demo.add_argument("kind", nargs="?", choices=["slider", "erase"], default="slider", help="default: %(default)s")
    demo.add_argument("--output", type=Path, metavar="DIR", help="default: leco_demo_slider or leco_demo_erase")
    demo.add_argument("--seed", type=_seed, default=42, metavar="N", help="default: %(default)s")
    demo.set_defaults(command=_demo)


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    # its arguments are described where they are read, which is not imported for the other commands: with no prefix
    # of its own this parser hands on all of them, --help too
    about = "convert ai-toolkit and LECO YAML to prompt TOML, or prompt TOML to YAML"
    convert = commands.add_parser("convert", help=about, add_help=False, prefix_chars="\0")
    convert.add_argument("arguments", nargs="*")
    convert.set_defaults(command=_convert)


def _train(options: argparse.Namespace) -> int:
    from leco_plugin.config.build import load_job, parse_overrides

    loaded = load_job(options.job, parse_overrides(options.set))
    write_lines(sys.stderr, (f"warning: {warning}" for warning in loaded.warnings))
    from leco_plugin.plugins import run_job

    return INTERRUPTED if run_job(loaded.job, host=options.host).interrupted else OK


def _train_flags(arguments: Sequence[str], *, sdxl: bool) -> int:
    from leco_plugin.config.sd_scripts import load_flags

    loaded = load_flags(arguments, sdxl=sdxl)
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise LecoError("LECO trains in one process on one device", fix="accelerate launch --num_processes=1 ...")
    write_lines(sys.stderr, (*loaded.notes, *(f"warning: {warning}" for warning in loaded.warnings)))
    from leco_plugin.plugins import run_job

    return INTERRUPTED if run_job(loaded.job).interrupted else OK


def _check(options: argparse.Namespace) -> int:
    from leco_plugin.check import check

    if options.model is not None:
        from leco_plugin.tools.check_model import check_with_model

        return check_with_model(options.file, options.model or None, options.json, sys.stdout, sys.stderr)
    return check(options.file, options.json, sys.stdout, sys.stderr)


def _convert(options: argparse.Namespace) -> int:
    from leco_converters.command import main as convert

    return convert(options.arguments, program="leco convert")


def _demo(options: argparse.Namespace) -> int:
    from leco_plugin.demo.run import run_demo

    output = options.output or Path(f"leco_demo_{options.kind}")
    return OK if run_demo(options.kind, output, options.seed) else INTERRUPTED


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError
    return number
