"""The command `leco`: exit codes, and one clear sentence for what the user can put right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import leco_plugin
from leco_plugin.commands import main as cli

JOB = """\
job: extension
config:
  name: cli
  process:
    - type: leco
      training_folder: {folder}
      device: cpu
      training_seed: 1
      model: {{name_or_path: builtin:tiny}}
      network: {{linear: 2, linear_alpha: 1}}
      train: {{steps: 1, lr: 1e-3}}
      leco:
        max_denoising_steps: 3
        prompts:
          - {{target: red, positive: red, resolution: 64}}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(folder=(tmp_path / "out").as_posix()))
    return path


def changed(job: Path, old: str, new: str) -> Path:
    text = job.read_text()
    assert old in text
    job.write_text(text.replace(old, new))
    return job


def leco(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user has it."""
    command = [sys.executable, "-m", "leco_plugin", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """What stands on stderr: exit code 2, and no traceback."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_train_writes_a_lora_and_ends_with_0(job, tmp_path):
    """Through a pipe: plain lines, the last of them says where the file is."""
    done = leco("train", job)
    assert done.returncode == 0
    assert "warning" not in done.stderr.lower()
    path = tmp_path / "out" / "cli" / "cli.safetensors"
    assert path.is_file()
    assert done.stdout.splitlines()[-1].endswith(f"the LoRA is {path}")
    assert any(line.startswith("step 1/1  loss ") for line in done.stdout.splitlines())


def test_set_changes_single_options(job, tmp_path, capsys):
    """By dotted key, any number of them."""
    changes = ["--set", "train.steps=2", "--set", "name=other", "--set", "network.linear=3"]
    assert cli.main(["train", str(job), *changes]) == 0
    with safe_open(tmp_path / "out" / "other" / "other.safetensors", "pt") as file:
        said = file.metadata()
    assert (said["ss_steps"], said["ss_network_dim"], said["ss_output_name"]) == ("2", "3", "other")
    assert "step 2/2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "train.stebs=2"], "did you mean"),
        (["--set", "train.steps=many"], "many"),
        (["--set", "train.steps"], "write KEY=VALUE"),
        (["--host", "comfy"], "no plugin offers a host called 'comfy'"),
        (["--set", "device=cuda:99"], "device 'cuda:99' cannot be used here"),
        (["--set", "model.name_or_path=./nowhere"], "there is no folder './nowhere' here"),
    ],
)
def test_what_the_user_can_put_right_ends_with_2(job, tmp_path, arguments, said, capsys):
    """Whichever part refuses it; no LoRA is written."""
    assert cli.main(["train", str(job), *arguments]) == cli.REFUSED == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_error_names_file_line_and_key(job):
    """``file:line: key: what``, and the fix in a line of its own."""
    changed(job, "linear: 2", "linaer: 2")
    first, second = refused(leco("train", job)).splitlines()
    assert first == f"{job}:10: config.process[0].network.linaer: unknown key"
    assert second.strip() == "fix: did you mean 'linear'?"


def test_all_errors_are_told_at_once(job):
    """In the order of the file."""
    changed(job, "steps: 1", "steps: 0")
    changed(job, "positive: red", "positive: 7")
    places = [line.split(": ")[0] for line in refused(leco("train", job)).splitlines() if line.startswith(str(job))]
    assert places == [f"{job}:11", f"{job}:15"]


def test_a_missing_job_is_an_error_like_others(tmp_path):
    """By its name."""
    assert "missing.yaml" in refused(leco("train", tmp_path / "missing.yaml"))


def test_warnings_go_to_stderr_and_the_run_goes_on(job, tmp_path):
    """A size of its own that is varied is odd, but can be trained."""
    changed(job, "resolution: 64", "resolution: [64, 72], dynamic_resolution: true")
    done = leco("train", job)
    assert done.returncode == 0
    assert done.stderr.startswith(f"warning: {job}:15: ")
    assert "no effect on a size that is not square" in done.stderr
    assert list(tmp_path.rglob("*.safetensors"))


def test_what_a_console_cannot_spell_is_escaped(job):
    """Errors and lines alike, on a console of ASCII."""
    changed(job, "target: red, positive: red", "target: 星, positive: 星")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    done = leco("train", job, env=environment)
    assert done.returncode == 0
    assert r"'\u661f'" in done.stdout
    changed(job, "config:\n", "config:\n  étoile: 1\n")
    assert r"\xe9toile" in refused(leco("train", job, env=environment))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nlong story"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_memory_that_is_short_is_one_sentence_with_what_to_set(job, monkeypatch, capsys, error):
    """Whatever kind of error torch makes of it, in any command; another RuntimeError stays what it is."""

    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("leco_plugin.plugins.run_job", fail)
    assert cli.main(["train", str(job)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("out of memory: ")
    assert "gradient_checkpointing" in said
    assert "long story" not in said
    error = RuntimeError("sizes of tensors must match")
    with pytest.raises(RuntimeError, match="sizes"):
        cli.main(["train", str(job)])


def test_ctrl_c_before_anything_is_saved_ends_with_130(job, monkeypatch, capsys):
    """As while the model is being loaded."""

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("leco_plugin.plugins.run_job", interrupt)
    assert cli.main(["train", str(job)]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_that_was_stopped_ends_with_130(job, monkeypatch):
    """Also when its work was saved."""

    class Stopped:
        interrupted = True

    monkeypatch.setattr("leco_plugin.plugins.run_job", lambda job, host: Stopped())
    assert cli.main(["train", str(job)]) == 130


def test_a_fault_of_ours_is_not_dressed_up_as_the_users(job, monkeypatch):
    """It keeps its traceback."""

    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("leco_plugin.plugins.run_job", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", str(job)])


def test_check_tells_what_a_job_means(job, capsys):
    """As text for people and as JSON for programs; nothing is loaded or written."""
    assert cli.main(["check", str(job)]) == 0
    assert "red" in capsys.readouterr().out
    assert cli.main(["check", "--json", str(job)]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["target"] == "red"
    assert [path.name for path in job.parent.iterdir()] == ["job.yaml"]


def test_check_refuses_what_train_refuses(job):
    """With the same words."""
    changed(job, "linear: 2", "linaer: 2")
    assert refused(leco("check", job)).splitlines()[0] == refused(leco("train", job)).splitlines()[0]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["check", "JOB", "--no-estimate"], ["train", "--help"]], ids=str
)
def test_light_commands_leave_torch_out(job, arguments):
    """They answer at once: torch and the model libraries are not even imported; for help, nor what reads files."""
    arguments = [str(job) if word == "JOB" else word for word in arguments]
    script = (
        "import sys; from leco_plugin.commands.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "files = set() if 'check' in sys.argv else {'pydantic', 'yaml', 'toml', 'tomlkit'}\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'numpy', *files} & set(sys.modules)\n"
        "raise SystemExit(str(sorted(heavy)) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_version_is_the_packages():
    """One number, in one place."""
    done = leco("--version")
    assert (done.returncode, done.stdout) == (0, f"leco_plugin {leco_plugin.__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["trian"], ["train", "a", "--stebs", "3"], ["demo", "--seed", "-1"]])
def test_a_command_that_is_none_ends_with_2(arguments):
    """With the usage, and without a traceback."""
    assert "usage: leco" in refused(leco(*arguments))


def test_help_names_every_command():
    """And says what each is for."""
    done = leco("--help")
    assert done.returncode == 0
    for command in ("train", "check", "demo"):
        assert any(line.split()[:1] == [command] and len(line.split()) > 3 for line in done.stdout.splitlines())


@pytest.mark.skipif(os.name == "nt", reason="Windows tells a writer of a closed pipe otherwise")
def test_a_reader_that_has_read_enough_is_no_error():
    """As in `leco check FILE | head`: no traceback, and nothing to put right."""
    path = Path(leco_plugin.__file__).parent / "demo" / "erase.yaml"
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "leco_plugin", "check", str(path)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", ["peft", "rich"])
def test_a_package_that_a_host_goes_without_is_named(package: str):
    """Their environments need not have it; the command that does says so."""
    script = f"import sys\nsys.modules[{package!r}] = None\nfrom leco_plugin.commands.main import main\n"
    command = [sys.executable, "-c", f"{script}sys.exit(main(['report', 'nothing']))"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert f"this command needs the package {package}, which is not installed here" in done.stderr
    assert f"pip install --no-deps {package}" in done.stderr
