"""`leco convert`."""

from __future__ import annotations

import argparse

from leco_plugin.commands.arguments import Commands


def add(commands: Commands) -> None:
    """Add `leco convert`.

    Its arguments are described where they are read, which is not imported for the other commands: with no prefix of
    its own this parser hands on all of them, --help too.
    """
    about = "convert files of ai-toolkit, LECO and Concept Sliders to prompt TOML, or prompt TOML to a job"
    convert = commands.add_parser("convert", help=about, add_help=False, prefix_chars="\0")
    convert.add_argument("arguments", nargs="*")
    convert.set_defaults(command=_convert)


def _convert(options: argparse.Namespace) -> int:
    from leco_converters.command import main

    return main(options.arguments, program="leco convert")
