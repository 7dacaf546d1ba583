"""A host as `leco host` sees it: what it offers is imported when it is asked for."""

from __future__ import annotations

from functools import partial
from pkgutil import resolve_name
from typing import Any


class LazyHost:
    """Has those methods of ``contracts.HostActions`` that ``actions`` names, each as ``package.module:function``."""

    def __init__(self, name: str, about: str, **actions: str) -> None:
        self.name, self.about = name, about
        for action, place in actions.items():
            setattr(self, action, partial(_call, place))


def _call(place: str, argument: object) -> Any:
    return resolve_name(place)(argument)
