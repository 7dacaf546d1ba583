"""`leco host`: prepare, check and start the trainers that LECO runs in. Imports a host only when it is asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from leco_plugin.commands.arguments import Commands
from leco_plugin.streams import write_lines

Action = Callable[[Path], Iterable[str]]
"""What is done to a host's checkout at a path; gives the lines to print, LecoError for what the user can put right."""
Start = Callable[[Sequence[str]], int]
"""Starts a host with the arguments that follow its name; gives the exit code."""

_ABOUT: Mapping[str, str] = {
    "install": "make LECO known to a checkout of the host",
    "check": "say which version it is, and what is missing",
    "remove": "take LECO out of it again",
    "run": "start it with LECO in it",
}
_HOSTS: Mapping[str, Mapping[str, str]] = {
    "install": {"ai-toolkit": "leco_plugin.hosts.ai_toolkit.checkout"},
    "check": {
        "ai-toolkit": "leco_plugin.hosts.ai_toolkit.checkout",
        "onetrainer": "leco_plugin.hosts.onetrainer.checkout",
    },
    "remove": {"ai-toolkit": "leco_plugin.hosts.ai_toolkit.checkout"},
    "run": {"onetrainer": "leco_plugin.hosts.onetrainer.launcher"},
}
"""Module with the function of each action, by host."""


def add(commands: Commands) -> None:
    """Add `leco host` with its actions."""
    host = commands.add_parser("host", help="use LECO inside another trainer: install, check, remove, run")
    actions = host.add_subparsers(required=True, metavar="ACTION")
    for name, hosts in _HOSTS.items():
        parser = actions.add_parser(name, help=_ABOUT[name], description=_ABOUT[name].capitalize())
        parser.add_argument("host", choices=tuple(hosts), metavar="HOST", help=", ".join(hosts))
        if name == "run":
            # read by the host itself, --help too
            parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="see: HOST --help")
        else:
            parser.add_argument("path", type=Path, metavar="PATH", help="the host's folder")
        parser.set_defaults(command=_run if name == "run" else _act, action=name)


def _act(options: argparse.Namespace) -> int:
    action = cast(Action, _function(options))
    write_lines(sys.stdout, action(options.path))
    return 0


def _run(options: argparse.Namespace) -> int:
    return cast(Start, _function(options))(options.arguments)


def _function(options: argparse.Namespace) -> object:
    return getattr(import_module(_HOSTS[options.action][options.host]), options.action)
