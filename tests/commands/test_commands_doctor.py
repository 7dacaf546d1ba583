"""`leco doctor`: one screen for a report, without paths and names."""

from __future__ import annotations

import getpass
import importlib.metadata
import platform
from pathlib import Path

import pytest

from leco_plugin.commands import main as cli


def test_it_tells_versions_memory_extras_and_hosts_on_one_screen(capsys: pytest.CaptureFixture[str]):
    """Each as the installation says it itself; nothing of the machine's user or folders."""
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    said = dict(line.split(":", 1) for line in out.splitlines() if not line.startswith("cuda:"))
    assert said["torch"].strip() == importlib.metadata.version("torch")
    assert platform.python_version() in said["python"]
    assert "GiB free" in said["memory"]
    assert {"[memory]", "[trackers]", "[ray]", "[tune]"} <= said.keys()
    assert {"builtin", "ai-toolkit", "onetrainer"} <= {host.split()[0] for host in said["hosts"].split(", ")}
    assert len(out.splitlines()) <= 24
    assert str(Path.home()) not in out
    assert platform.node() not in out.split()
    assert f"/{getpass.getuser()}/" not in out
