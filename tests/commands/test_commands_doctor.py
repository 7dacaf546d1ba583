"""`leco doctor`: one screen of facts that can be pasted into a report, whatever is missing."""

from __future__ import annotations

import getpass
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import toml
import torch

from leco_plugin.commands import doctor
from leco_plugin.commands.main import main
from leco_plugin.hosts.folders import remember

PROJECT = toml.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(autouse=True)
def _settings_of_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "settings"))


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says, one finding a line."""
    assert main(["doctor"]) == 0
    return joined(capsys.readouterr().out)


def joined(screen: str) -> str:
    return re.sub(r"\n +", " ", screen)


def line(label: str, text: str) -> str:
    """What stands behind ``label``."""
    return next(line for line in text.splitlines() if line.split()[0] == label).removeprefix(label).strip()


def names(requirements: list[str]) -> set[str]:
    """Packages, without their versions; not those that only some Pythons need."""
    return {re.split(r"[<>=;]", line)[0] for line in requirements if "python_version" not in line}


def test_it_fits_on_a_screen_and_tells_nothing_of_its_user(capsys, tmp_path):
    """24 lines of 80 columns, in which there is no path, no user and no machine."""
    folder = tmp_path / "janes-trainer"
    folder.mkdir()
    remember("ai-toolkit", folder)
    assert main(["doctor"]) == 0
    screen = capsys.readouterr().out
    assert len(screen.splitlines()) <= 24
    assert "BROKEN" not in screen
    assert max(map(len, screen.splitlines())) <= 80
    assert f"torch {torch.__version__.partition('+')[0]}" in joined(screen)
    assert f"Python {platform.python_version()}" in joined(screen)
    for private in ("janes-trainer", str(Path.home()), sys.prefix, os.getcwd()):
        assert private not in screen
    assert not {getpass.getuser(), platform.node()} & set(re.findall(r"[\w.-]+", screen))


def test_it_knows_the_hosts(capsys, tmp_path):
    """Each with whether its folder is known, and still there; the command that makes it known is named."""
    remember("onetrainer", tmp_path / "gone")
    text = told(capsys)
    assert re.search(r"^builtin +installed$", text, re.MULTILINE)
    assert re.search(r"^ai-toolkit +its folder is not known: leco host install ai-toolkit PATH$", text, re.MULTILINE)
    assert re.search(
        r"^onetrainer +its folder is no longer there: leco host check onetrainer PATH$", text, re.MULTILINE
    )
    remember("onetrainer", tmp_path)
    assert re.search(r"^onetrainer +its folder is known", told(capsys), re.MULTILINE)


@pytest.mark.parametrize(
    ("package", "said"), [("torch", "BROKEN torch cannot"), ("diffusers", "BROKEN diffusers, transformers cannot")]
)
def test_with_a_broken_package_it_says_so(package, said, tmp_path):
    """One that cannot be imported is a finding, with what it lacks and without where; the rest is told as ever."""
    error = "/home/jane/lib/libcudart.so.12: cannot open shared object file"
    (tmp_path / f"{package}.py").write_text(f"raise OSError({error!r})")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "leco_plugin", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert f"{said} be imported: OSError: libcudart.so.12: cannot open shared object file" in text
    assert "jane" not in text
    assert "GiB free" in text
    assert "[tune]" in text
    assert ("hosts cannot be listed without torch" if package == "torch" else "builtin installed") in text


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvidia-smi is a shell script")
@pytest.mark.parametrize(
    ("cuda", "said"),
    [
        (None, "torch is the CPU build, though there is an NVIDIA card (A Card, driver 580.1): pip install torch"),
        ("13.0", "torch finds no card, though there is an NVIDIA card (A Card, driver 580.1): update its driver"),
    ],
)
def test_a_card_that_torch_does_not_use_is_named(cuda, said, capsys, tmp_path, monkeypatch):
    """What NVIDIA's own program sees and torch does not, with the cure; where that program sees none, nothing."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'A Card, 580.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert said in told(capsys)
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert "NVIDIA" not in told(capsys)


def test_cards_are_shown_with_their_free_memory():
    """Three of them, and how many more there are; one that another program has filled gives no figure."""

    def free(number: int) -> tuple[int, int]:
        if number:
            raise RuntimeError("CUDA error: out of memory")
        return 3 * 2**29, 2**31

    card = SimpleNamespace(name="A Card", major=8, minor=9, total_memory=2**31)
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 5, get_device_properties=lambda _: card, mem_get_info=free
    )
    stand_in = SimpleNamespace(version=SimpleNamespace(cuda="13.0", hip=None), cuda=cuda)
    first, second, _, last = doctor._devices(stand_in)
    assert first == "cuda:0 A Card (8.9), 1.5 GiB of 2.0 GiB free"
    assert second == "cuda:1 A Card (8.9), no answer (CUDA error: out of memory) of 2.0 GiB free"
    assert last == "2 more; torch is the CUDA 13.0 build"


def test_what_is_missing_comes_with_the_line_that_installs_it(capsys, monkeypatch):
    """A package that is needed, and one of an extra."""
    there = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("peft", "optuna") else there(name))
    text = told(capsys)
    assert line("MISSING", text) == "peft: pip install peft"
    assert "leco tune: pip install optuna" in line("[tune]", text)


def test_it_looks_for_what_the_package_requires():
    """The packages and the extras of pyproject.toml that serve who uses it, all of them and no others."""
    assert set(doctor.NEEDED) == names(PROJECT["dependencies"])
    served = PROJECT["optional-dependencies"].keys() - {"dev", "docs"}
    extras = {extra: names(PROJECT["optional-dependencies"][extra]) for extra in served}
    assert {extra: set(packages) for extra, (packages, _) in doctor.EXTRAS.items()} == extras


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("libx.so.1: cannot open", "libx.so.1: cannot open"),
        ("/home/jane/a b.so: no", "PATH b.so: no"),
        ('Error loading "C:\\Users\\Jane Doe\\torch\\lib\\c10.dll" or one', "Error loading c10.dll or one"),
        ("cannot import name 'a' from 'b' (/home/jane/b.py)", "cannot import name 'a' from 'b' (b.py)"),
        ("no module 'a'; in /home/jane", "no module 'a'; in PATH"),
        (f"in {Path.home()}{os.sep}a.py", "in a.py"),
    ],
)
def test_paths_are_cut_down_to_names_of_files(text, shown):
    """What an error of a library says may hold them."""
    assert doctor.without_places(text) == shown
