"""TAB in a shell completes `leco`, by argcomplete."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import leco_plugin.commands.main

pytest.importorskip("argcomplete")


def completions(line: str, answer: Path) -> set[str]:
    """What is offered where ``line`` ends, asked for as a shell's completion function does."""
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    environment = {**os.environ, **asked, "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    subprocess.run([sys.executable, "-m", "leco_plugin"], env=environment, check=True, capture_output=True)
    return {word.strip() for word in answer.read_text("utf-8").split("\n")}


def test_commands_flags_and_choices_are_offered(tmp_path):
    """Of the whole command line."""
    assert completions("leco ca", tmp_path / "a") == {"calibrate"}
    assert {"--drift-limit", "--in-place"} <= completions("leco calibrate --", tmp_path / "b")
    assert completions("leco demo s", tmp_path / "c") == {"slider"}
    assert completions("leco host in", tmp_path / "d") == {"install"}


def test_shells_that_complete_every_program_know_this_one():
    """They look for this mark in the first 1024 characters of the module that the command leads to."""
    source = Path(leco_plugin.commands.main.__file__).read_text("utf-8")
    assert "PYTHON_ARGCOMPLETE_OK" in source[:1024]


def test_nobody_else_pays_for_it():
    """argcomplete is imported where a shell asks, and for no other call."""
    script = "import sys, leco_plugin.commands.main as leco\ntry: leco.main(['--help'])\n"
    script += "finally: assert 'argcomplete' not in sys.modules"
    environment = {name: value for name, value in os.environ.items() if name != "_ARGCOMPLETE"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
