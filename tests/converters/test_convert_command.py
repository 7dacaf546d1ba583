"""The command: exit codes, where its words go, and how long it takes."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from leco_converters.command import main

from leco_plugin.commands.main import main as leco
from leco_plugin.config.editors import schema_line

ROOT = Path(__file__).parents[2]
LOSES = "prompt_tensors: t\ntargets: [{target_class: a, positive: b}]\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of which one key is lost."""
    path = tmp_path / "a.yaml"
    path.write_text(LOSES)
    return path


def test_it_writes_and_reports(source: Path, capsys: pytest.CaptureFixture[str]):
    """Exit code 0, and the report where people see it."""
    assert main([str(source)]) == 0
    out, err = capsys.readouterr()
    assert f"lost: {source}:1: prompt_tensors: " in out
    assert f"wrote {source.with_suffix('.toml')}" in out
    assert "2 training pairs" in out
    assert not err


def test_strict_ends_with_1_and_writes_nothing(source: Path, capsys: pytest.CaptureFixture[str]):
    """The report is the same."""
    assert main([str(source), "--strict"]) == 1
    out, err = capsys.readouterr()
    assert "prompt_tensors" in out
    assert "nothing is written" in err
    assert list(source.parent.iterdir()) == [source]


def test_an_error_ends_with_2_and_has_place_and_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """On the console's side for errors."""
    path = tmp_path / "a.yaml"
    path.write_text("targets:\n  - {target_class: a, positive: b, weight: x}\n")
    assert main([str(path)]) == 2
    out, err = capsys.readouterr()
    assert not out
    first, second = err.splitlines()
    assert first.startswith(f"{path}:2: targets[0].weight: ")
    assert second.startswith("  fix: ")


def test_json_is_one_object(source: Path, capsys: pytest.CaptureFixture[str]):
    """With every note, and what was written."""
    assert main([str(source), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["written"] == [str(source.with_suffix(".toml"))]
    assert report["pairs"] == 2
    assert report["lost"] is True
    assert report["notes"][0]["key"] == "prompt_tensors"
    assert report["notes"][0]["done"]


def test_json_names_errors_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """With exit code 2."""
    assert main([str(tmp_path / "no.yaml"), "--json"]) == 2
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert error["message"] == "there is no such file"
    assert error["fix"]


def test_flags_are_printed(source: Path, capsys: pytest.CaptureFixture[str]):
    """As the last line, to be copied."""
    assert main([str(source), "--flags", "--model", "some/model"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("accelerate launch")
    assert "--pretrained_model_name_or_path=some/model" in last


def test_leco_convert_is_the_same_command(source: Path, capsys: pytest.CaptureFixture[str]):
    """With the same arguments and codes, help included."""
    assert leco(["convert", "--json", str(source), "--strict"]) == 1
    assert json.loads(capsys.readouterr().out)["lost"] is True
    with pytest.raises(SystemExit) as caught:
        leco(["convert", "--help"])
    assert caught.value.code == 0
    assert "usage: leco convert" in capsys.readouterr().out


def test_text_cannot_steer_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Keys of a foreign file are spelled out."""
    path = tmp_path / "a.yaml"
    path.write_text('targets: [{target_class: a, positive: b, "\\e[2Jx": 1}]\n')
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[2Jx" in out


def run(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python as a user does, from this checkout."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "converters")])
    command = [sys.executable, *(["-c", code] if code else ["-m", "leco_converters"]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)


def test_the_module_runs(source: Path):
    """`python -m leco_converters`."""
    result = run(str(source))
    assert result.returncode == 0, result.stderr
    assert source.with_suffix(".toml").exists()


def test_torch_is_never_imported(source: Path):
    """Nor any other library of models, so that the answer comes at once."""
    code = (
        "import sys\nfrom leco_plugin.commands.main import main\n"
        "main(['convert', sys.argv[1], '--job', '--model', 'm'])\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = run(str(source), code=code)
    assert result.returncode == 0, result.stderr


def test_other_commands_do_not_wait_for_the_converters():
    """They are imported when they are asked for."""
    code = (
        "import sys\nfrom leco_plugin.commands.main import main\nmain(['check', sys.argv[1]])\n"
        "assert 'leco_converters' not in sys.modules\n"
    )
    result = run(str(ROOT / "config_examples" / "slider.toml"), code=code)
    assert result.returncode == 0, result.stderr


def test_half_a_megabyte_with_2400_targets_takes_time_by_its_size(tmp_path: Path):
    """Eight times the targets, less than sixteen times the time of the processor, however busy the machine is."""
    short, long = (seconds_for(number, tmp_path) for number in (300, 2400))
    assert long <= 16 * short


def seconds_for(targets: int, folder: Path) -> float:
    """Time that the processor spent on a job with so many targets; 0 where the system does not tell."""
    prompt = "a photo of something with high detail, sharp focus, intricate, best quality, number"
    texts = "".join(
        f'        - target_class: "thing {index}"  # target {index}\n          positive: "{prompt} {index}"\n'
        f'          negative: "blurry {prompt[:40]} {index}"\n          weight: 1.0\n'
        for index in range(targets)
    )
    text = f"job: train\nconfig:\n  name: n\n  process:\n    - type: slider\n      slider:\n        targets:\n{texts}"
    (folder / f"{targets}.yaml").write_text(text)
    before = os.times()
    result = run(str(folder / f"{targets}.yaml"))
    after = os.times()
    assert result.returncode == 0, result.stderr
    assert f"{4 * targets} training pairs" in result.stdout
    return after.children_user - before.children_user + after.children_system - before.children_system


def test_options_and_names_come_in_any_order(tmp_path: Path):
    """The target after an option, and the option first."""
    (tmp_path / "a.yaml").write_text("- target: a\n")
    for number, words in enumerate(
        (["{}", "--force", "b.toml"], ["--force", "{}", "b.toml"], ["{}", "b.toml", "--force"])
    ):
        target = tmp_path / f"{number}.toml"
        target.write_text("old")
        arguments = [word.format(tmp_path / "a.yaml").replace("b.toml", str(target)) for word in words]
        assert leco(["convert", *arguments]) == 0
        assert target.read_text().endswith('\n[[prompts]]\ntarget = "a"\n')


def test_what_is_written_names_its_schema_for_editors_once(tmp_path: Path):
    """Prompts and jobs of ours in their first line, also where they are converted again; not what is ai-toolkit's."""
    (tmp_path / "a.yaml").write_text("# mine\n\n- target: a # b\n")
    paths = ["a.yaml", "b.toml", "c.yaml", "d.toml", "e.yaml"]
    first: list[list[str]] = []
    for source, target in itertools.pairwise(paths):
        assert main([str(tmp_path / source), str(tmp_path / target)]) == 0
        lines = (tmp_path / target).read_text().splitlines()
        first.append([line for line in lines if "schema" in line])
        assert lines[:3] == [schema_line("prompts" if target.endswith("toml") else "job"), "# mine", ""]
    assert [len(lines) for lines in first] == [1, 1, 1, 1]
    assert main([str(tmp_path / "b.toml"), str(tmp_path / "f.yaml"), "--to", "ai-toolkit"]) == 0
    assert "schema" not in (tmp_path / "f.yaml").read_text()
    assert main([str(tmp_path / "a.yaml"), str(tmp_path / "g.toml"), "--job", "--model", "m"]) == 0
    assert (tmp_path / "g_job.yaml").read_text().startswith(f"{schema_line('job')}\n")
