"""`leco host` and a folder of ai-toolkit: install, check, remove, and never break the host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from leco_plugin.commands import main as cli
from leco_plugin.hosts.ai_toolkit import AI_TOOLKIT_EXTENSIONS


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a folder of the host is known by."""
    (tmp_path / "extensions_built_in").mkdir()
    (tmp_path / "run.py").write_text("")
    (tmp_path / "version.py").write_text('VERSION = "9.9.9"\n')
    return tmp_path


def host(action: str, path: Path) -> int:
    return cli.main(["host", action, "ai-toolkit", str(path)])


def imported(checkout: Path, before: str = "pass") -> str:
    """What the host reads of the shim, in a process of its own."""
    code = f"import sys; {before}; sys.path.insert(0, '.'); import extensions.leco as m; print(m.AI_TOOLKIT_EXTENSIONS)"
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True)
    return done.stdout


def test_installing_twice_and_removing_twice(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command says what it did; nothing else is touched."""
    shim = checkout / "extensions" / "leco.py"
    assert host("install", checkout) == host("install", checkout) == 0
    assert f"wrote {shim}" in capsys.readouterr().out
    assert [path.name for path in shim.parent.iterdir()] == ["leco.py"]
    assert "LecoExtension" in imported(checkout)
    assert host("remove", checkout) == 0
    assert not shim.exists()
    assert host("remove", checkout) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"nothing to do: there is no {shim}"


def test_a_host_without_our_package_goes_on(checkout: Path) -> None:
    """All of its jobs import the shim: it then offers nothing, and says so."""
    assert host("install", checkout) == 0
    assert imported(checkout, "sys.modules['leco_plugin'] = None").splitlines()[-1] == "[]"


def test_files_of_others_are_left_alone(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither overwritten nor deleted."""
    shim = checkout / "extensions" / "leco.py"
    shim.parent.mkdir()
    shim.write_text("mine")
    for action in ("install", "remove"):
        assert host(action, checkout) == 2
        assert "was not written by leco" in capsys.readouterr().err
    assert shim.read_text() == "mine"


def test_a_folder_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is written."""
    for action in ("install", "check", "remove"):
        assert host(action, tmp_path) == 2
        assert "is not a folder of ai-toolkit" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_check_says_what_is_missing(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its version, the package that its import stops at, and requirements that are not installed."""
    (checkout / "requirements.txt").write_text("pyyaml\nnot-there-at-all==1.0\ngit+https://example.org/x.git\n")
    folder = checkout / "extensions_built_in" / "sd_trainer"
    folder.mkdir()
    (folder / "DiffusionTrainer.py").write_text("import not_there_at_all\n")
    assert host("check", checkout) == 2
    out, err = capsys.readouterr()
    assert "ai-toolkit 9.9.9 (tested: " in out
    assert "required by the host and not installed here: not-there-at-all\n" in out
    assert "No module named 'not_there_at_all'" in err


def test_a_host_that_cannot_run_us_can_run_everything_else() -> None:
    """Its extensions are asked for their processes at every job: ours answers, and only a job of ours fails."""
    (extension,) = AI_TOOLKIT_EXTENSIONS
    assert extension.uid == "leco"
    # there is no host around this test
    process = extension.get_process()
    with pytest.raises(Exception, match="LECO does not work with this ai-toolkit: ModuleNotFoundError"):
        process(0, None, {})
