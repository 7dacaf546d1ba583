"""`leco host`: prepare, check and start the trainers that LECO runs in; hosts are plugins, imported when asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from leco_plugin.commands.arguments import Commands
from leco_plugin.commands.codes import OK
from leco_plugin.errors import PluginError
from leco_plugin.streams import write_lines

if TYPE_CHECKING:
    from leco_plugin.contracts import Host

_ON_FOLDER: Mapping[str, str] = {
    "install": "make LECO known to a checkout of the host",
    "check": "say which version it is, and what is missing",
    "remove": "take LECO out of it again",
}
_ON_ARGUMENTS: Mapping[str, str] = {
    "run": "train in it",
    "ui": "open its window with LECO in it",
    "submit": "put a job into its queue",
}
_METHODS: Mapping[str, str] = {**{name: name for name in (*_ON_FOLDER, *_ON_ARGUMENTS)}, "run": "start"}
"""Method of ``contracts.HostActions`` for each action."""


def add(commands: Commands) -> None:
    """Add `leco host` with its actions."""
    host = commands.add_parser("host", help="use LECO inside another trainer; alone it lists them")
    host.set_defaults(command=_list)
    actions = host.add_subparsers(metavar="ACTION")
    for name, about in {**_ON_FOLDER, **_ON_ARGUMENTS}.items():
        parser = actions.add_parser(name, help=about, description=about.capitalize())
        parser.add_argument("host", metavar="HOST", help="a name that `leco host` lists")
        if name in _ON_FOLDER:
            folder = "the host's folder (default: the one that was last installed or checked)"
            parser.add_argument("path", type=Path, nargs="?", metavar="PATH", help=folder)
        else:
            # read by the host itself, --help too
            parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="see: HOST --help")
        parser.set_defaults(command=_act if name in _ON_FOLDER else _start, action=name)


def _list(options: argparse.Namespace) -> int:
    from leco_plugin.plugins import hosts, plugin_manager

    write_lines(sys.stdout, _lines(hosts(plugin_manager()).values()))
    return OK


def _lines(found: Iterable[Host]) -> Iterator[str]:
    for host in found:
        yield f"{host.name}: {host.about}"
        offered = [action for action, method in _METHODS.items() if hasattr(host, method)]
        if offered:
            yield f"  leco host {' | '.join(offered)} {host.name}"


def _act(options: argparse.Namespace) -> int:
    from leco_plugin.hosts.folders import folder_of, remember

    action = cast("Callable[[Path], Iterable[str]]", _method(options))
    path = folder_of(options.host, options.path)
    write_lines(sys.stdout, action(path))
    if options.action != "remove":
        remember(options.host, path)
    return OK


def _start(options: argparse.Namespace) -> int:
    return cast("Callable[[Sequence[str]], int]", _method(options))(options.arguments)


def _method(options: argparse.Namespace) -> object:
    from leco_plugin.plugins import find_host, plugin_manager

    host = find_host(options.host, plugin_manager())
    method = getattr(host, _METHODS[options.action], None)
    if method is None:
        raise PluginError(f"the host {host.name} has no `{options.action}`", fix="leco host lists what each one has")
    return method
