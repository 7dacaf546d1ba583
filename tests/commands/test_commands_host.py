"""`leco host`: whatever a plugin offers as a host has the same commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import leco_plugin
from leco_plugin import plugins
from leco_plugin.commands.main import main
from leco_plugin.errors import PluginError
from leco_plugin.hosts.folders import folder_of


class Somebodys:
    """A host of a third party that does everything a host can do, and remembers it."""

    name, about = "somebodys", "a trainer of somebody's"

    def __init__(self) -> None:
        self.asked: list[object] = []

    @leco_plugin.hookimpl
    def leco_host(self) -> Somebodys:
        return self

    def install(self, path: Path) -> Iterator[str]:
        self.asked.append(("install", path))
        yield "installed"

    def check(self, path: Path) -> Iterator[str]:
        self.asked.append(("check", path))
        yield "well"
        if not path.is_dir():
            raise PluginError(f"there is no {path}", fix="name another")

    def remove(self, path: Path) -> list[str]:
        self.asked.append(("remove", path))
        return ["removed"]

    def start(self, arguments: Sequence[str]) -> int:
        self.asked.append(("start", arguments))
        return 7

    def ui(self, arguments: Sequence[str]) -> int:
        self.asked.append(("ui", arguments))
        return 0

    def submit(self, arguments: Sequence[str]) -> int:
        self.asked.append(("submit", arguments))
        return 0


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Somebodys:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "settings"))
    found = Somebodys()
    made = plugins.plugin_manager
    monkeypatch.setattr(plugins, "plugin_manager", lambda: made([found], installed=False))
    return found


def test_a_host_of_a_plugin_has_every_command(host, tmp_path, capsys):
    """Each calls its own method, with the folder or the rest of the command line; the exit code is the host's."""
    folder = str(tmp_path)
    for action in ("install", "check", "remove"):
        assert main(["host", action, "somebodys", folder]) == 0
    assert main(["host", "run", "somebodys", "job.yaml", "--root", "x", "--help"]) == 7
    assert main(["host", "ui", "somebodys"]) == main(["host", "submit", "somebodys", "job.yaml"]) == 0
    assert capsys.readouterr().out.splitlines() == ["installed", "well", "removed"]
    assert host.asked == [
        ("install", tmp_path), ("check", tmp_path), ("remove", tmp_path),
        ("start", ["job.yaml", "--root", "x", "--help"]), ("ui", []), ("submit", ["job.yaml"]),
    ]  # fmt: skip


def test_hosts_are_listed_with_what_they_can_do(host, capsys):
    """The built-in one, those that come with LECO, and a third party's."""
    assert main(["host"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.partition(":")[0] for line in lines if not line.startswith(" ")]
    assert sorted(names) == ["ai-toolkit", "builtin", "onetrainer", "somebodys"]
    assert "  leco host install | check | remove | run | ui | submit somebodys" in lines
    assert "  leco host check | run" in "\n".join(lines)


def test_a_folder_is_named_once(host, tmp_path, capsys):
    """A check that went well is remembered, one that failed is not."""
    assert main(["host", "check", "somebodys"]) == 2
    assert "leco host check somebodys PATH" in capsys.readouterr().err
    assert main(["host", "check", "somebodys", str(tmp_path)]) == 0
    assert main(["host", "check", "somebodys", str(tmp_path / "absent")]) == 2
    assert main(["host", "check", "somebodys"]) == 0
    assert host.asked[-1] == ("check", tmp_path)
    assert folder_of("somebodys", None) == tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["install", "onetrainer", "x"], "the host onetrainer has no `install`"),
     (["run", "comfy"], "no plugin offers a host called 'comfy'")],
)  # fmt: skip
def test_what_a_host_does_not_offer_is_refused(host, capsys, arguments, message):
    """With where to look."""
    assert main(["host", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_host_without_jobs_is_none_of_leco_train(host, tmp_path, capsys):
    """It is told where its own commands are."""
    job = tmp_path / "job.yaml"
    job.write_text(
        "job: extension\nconfig:\n  name: x\n  process:\n  - type: leco\n    model: {name_or_path: builtin:tiny}\n"
        "    leco: {targets: [{target: red, positive: red, resolution: 64}]}\n"
    )
    assert main(["train", str(job), "--host", "onetrainer"]) == 2
    assert "does not run jobs of `leco train`" in capsys.readouterr().err
