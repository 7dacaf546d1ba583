"""Kinds of arguments that several commands take."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Number = Callable[[str], int]
_METAVARS = {"model": "MODEL", "name": "NAME"}


def whole(least: int, most: int) -> Number:
    """A whole number from ``least`` to ``most``."""

    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError
        return value

    return number


def real(least: float, most: float) -> Callable[[str], float]:
    """A number from ``least`` to ``most``."""

    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise ValueError
        return value

    return number


def prompt(text: str) -> str:
    """Text that a model can read."""
    from leco_plugin.config.blame import check_text
    from leco_plugin.config.findings import Findings

    findings = Findings(None)
    check_text(text, (), findings)
    if findings.errors:
        raise argparse.ArgumentTypeError(findings.errors[0].message)
    return text


seed = whole(0, 2**63 - 1)


def add_words(parser: argparse.ArgumentParser) -> None:
    """Add what stands in place of a prompt file, and what a job of it says besides."""
    for name, about in {
        "model": "of a prompt file or of words: folder, file, hub id, builtin:tiny or builtin:tiny-flow",
        "target": "of a slider: the prompt that it acts on",
        "positive": "what strength +1 shall be",
        "negative": "what strength -1 shall be",
        "erase": "take this out of what is drawn for it, or for --target",
        "name": "what the LoRA is called; from the words or the prompt file where absent",
    }.items():
        parser.add_argument(f"--{name}", metavar=_METAVARS.get(name, "TEXT"), help=about)
    about = "a prompt that shall stay, or auto: what lies near; repeatable"
    parser.add_argument("--preserve", action="append", default=[], metavar="TEXT", help=about)


def take_strengths_below_zero(parser: argparse.ArgumentParser) -> None:
    """Let ``-2..2`` be the value of a flag; argparse would take it for a flag itself."""
    parser._negative_number_matcher = re.compile(r"-[\d.]")
