"""`leco schema`: the JSON Schema of our files, for editors."""

from __future__ import annotations

import argparse
import sys

from leco_plugin.commands.arguments import Commands
from leco_plugin.commands.codes import OK
from leco_plugin.streams import write_lines


def add(commands: Commands) -> None:
    """Add `leco schema`."""
    about = "print the JSON Schema of job or prompt files, by which an editor completes keys and marks errors"
    parser = commands.add_parser("schema", help=about, description=about.capitalize())
    parser.add_argument("kind", choices=("job", "prompts"), help="job (YAML) or prompts (TOML)")
    parser.set_defaults(command=_schema)


def _schema(options: argparse.Namespace) -> int:
    from leco_plugin.config.editors import schema_file

    write_lines(sys.stdout, schema_file(options.kind).read_text("utf-8").splitlines())
    return OK
