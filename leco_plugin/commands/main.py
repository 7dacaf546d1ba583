"""The command `leco`: thin; what the user can put right ends here with exit code 2 and no traceback."""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from leco_plugin import __version__
from leco_plugin.commands import (
    calibrate,
    check,
    convert,
    demo,
    doctor,
    evaluate,
    host,
    inspect,
    new,
    preview,
    report,
    schema,
    train,
    tune,
)
from leco_plugin.commands.codes import INTERRUPTED, OK, REFUSED
from leco_plugin.errors import LESS_MEMORY, LecoError, is_out_of_memory, reason
from leco_plugin.launched import speaks_here
from leco_plugin.streams import write_lines

_LEFT_OUT = {"peft": "peft", "rich": "rich", "ruamel": "ruamel.yaml", "tomlkit": "tomlkit"}
"""Packages by what is imported of them that a run in another trainer goes without."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 refused with a reason, 130 stopped by the user."""
    parser = _parser()
    # set by a shell that asks for completions; nobody else pays for the import
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return _guarded(lambda: command(options))


def train_from_flags(arguments: Sequence[str] | None = None, *, sdxl: bool) -> int:
    """Train from sd-scripts' flags, those of this program where ``arguments`` is absent; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return _guarded(lambda: train.train_flags(given, sdxl=sdxl))


def _guarded(command: Callable[[], int]) -> int:
    try:
        return command()
    except LecoError as error:
        # what its machine's other processes find, too
        if speaks_here():
            write_lines(sys.stderr, map(str, error.problems))
        return REFUSED
    except ModuleNotFoundError as error:
        # hosts are told which of them they can do without
        package = _LEFT_OUT.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        missing = f"this command needs the package {package}, which is not installed here"
        write_lines(sys.stderr, [missing, f"  fix: pip install --no-deps {package}"])
        return REFUSED
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        write_lines(sys.stderr, [f"out of memory: {reason(error)}", f"  fix: {LESS_MEMORY}"])
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
    for command in (
        train,
        new,
        check,
        demo,
        convert,
        host,
        evaluate,
        calibrate,
        inspect,
        preview,
        report,
        tune,
        doctor,
        schema,
    ):
        command.add(commands)
    return parser
