"""Several jobs in one call: each trains as alone, failures are named at the end, finished ones are left out."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_commands_main import JOB

from leco_plugin.commands import main as cli
from leco_plugin.config.build import load_job
from leco_plugin.families import load as families_load
from leco_plugin.families.known import settle
from leco_plugin.plugins import run_job

NETWORKS = ("linear: 2", "type: loha, linear: 2", "linear: 3, layers: xattn")


def written(folder: Path, networks: Sequence[str], **changes: str) -> list[Path]:
    """Jobs on one model, with a network each."""
    paths = []
    for name, network in zip("abc", networks, strict=False):
        text = JOB.format(folder=(folder / "out").as_posix()).replace("name: cli", f"name: {name}")
        for old, new in {"linear: 2": network, **changes}.items():
            text = text.replace(old, new)
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(text)
    return paths


@pytest.fixture
def jobs(tmp_path: Path) -> list[Path]:
    """Three jobs on one model, with networks of three kinds."""
    return written(tmp_path, NETWORKS)


def lora(job: Path, folder: str = "out") -> Path:
    return job.parent / folder / job.stem / f"{job.stem}.safetensors"


@pytest.mark.parametrize(
    ("changes", "networks"),
    [
        ({}, NETWORKS),
        ({"builtin:tiny": "builtin:tiny-flow"}, ("linear: 2", "linear: 3")),
        ({"builtin:tiny}": "builtin:tiny-flow}\n      memory: {offload: layers}"}, ("linear: 3", "linear: 2")),
    ],
    ids=["stable diffusion", "flow", "flow, offloaded"],
)
def test_jobs_that_share_a_model_load_it_once_and_train_as_alone(tmp_path, monkeypatch, capsys, changes, networks):
    """Bit for bit, whatever network was on the model before; the second starts at once."""
    jobs = written(tmp_path, networks, **changes)
    for job in jobs:
        run_job(settle(load_job(job, {"training_folder": str(tmp_path / "alone")}).job).job)
    opened = []
    opened_model = families_load.open_model
    monkeypatch.setattr(families_load, "open_model", lambda model: opened.append(model) or opened_model(model))
    weights = []
    for source, load in ((families_load.FolderSource, "unet"), (families_load.FlowSource, "transformer")):
        monkeypatch.setattr(source, load, _counted(getattr(source, load), weights))
    assert cli.main(["train", *map(str, jobs)]) == 0
    assert len(weights) == 1
    assert len(opened) == len(jobs)
    for job in jobs:
        assert lora(job).read_bytes() == lora(job, "alone").read_bytes()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(" after")[0] for line in lines[-len(jobs) :]] == ["finished"] * len(jobs)


def _counted(method, calls):
    def counted(*arguments, **options):
        calls.append(arguments)
        return method(*arguments, **options)

    return counted


def test_a_failure_stops_no_other_and_is_named_at_the_end(jobs, capsys):
    """The first cannot be read, the second finds no model; the third is there, and is left out the next time."""
    jobs[0].write_text(jobs[0].read_text().replace("steps: 1", "stebs: 1"))
    jobs[1].write_text(jobs[1].read_text().replace("builtin:tiny", "./nowhere"))
    assert cli.main(["train", *map(str, jobs)]) == 2
    said = capsys.readouterr()
    assert f"{jobs[0]}: failed" in said.out
    assert f"{jobs[0]}: {jobs[0]}:11: config.process[0].train.stebs: unknown key" in said.err
    assert f"{jobs[1]}: there is no folder './nowhere' here" in said.err
    before = lora(jobs[2]).stat().st_mtime_ns
    assert cli.main(["train", *map(str, jobs)]) == 2
    assert f"{jobs[2]}: skipped, it is finished: finished after 1 steps" in capsys.readouterr().out
    assert lora(jobs[2]).stat().st_mtime_ns == before
    assert cli.main(["train", str(jobs[2]), "--again"]) == 0
    assert lora(jobs[2]).stat().st_mtime_ns != before
    assert cli.main(["train", str(jobs[2]), str(jobs[2]), "--set", "train.lr=1e-4"]) == 2
    assert "of an earlier run, which this one would replace" in capsys.readouterr().err


def test_a_list_that_was_stopped_goes_on(jobs, monkeypatch, capsys):
    """Ctrl-C in the first job stops it and begins no other; the next call goes on with its state."""
    from leco_plugin.observers.history import HistoryWriter

    notify = HistoryWriter.notify
    changes = ["--set", "train.steps=3", "--set", "save.save_state=true"]

    def stopping(self: HistoryWriter, event: object) -> None:
        notify(self, event)
        if type(event).__name__ == "StepDone":
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(HistoryWriter, "notify", stopping)
        assert cli.main(["train", *map(str, jobs[:2]), *changes]) == 130
    out = capsys.readouterr().out
    assert f"{jobs[0]}: stopped" in out
    assert f"{jobs[1]}: not begun" in out
    assert cli.main(["train", *map(str, jobs[:2]), *changes]) == 0
    assert "goes on: after step 1" in capsys.readouterr().out


def test_two_jobs_for_one_file_are_refused(jobs, capsys):
    """Before anything is trained."""
    jobs[1].write_text(jobs[0].read_text())
    assert cli.main(["train", str(jobs[0]), str(jobs[1])]) == 2
    assert f"{jobs[0]} and {jobs[1]} would both write" in capsys.readouterr().err
    assert not lora(jobs[0]).exists()
