"""The history of a run beside its LoRA: complete, also where the run was killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from models import Recorder, tiny_job

import leco_plugin
from leco_plugin.config.run import RunDescription, describe_job
from leco_plugin.errors import ConfigError
from leco_plugin.events import Event, PicturesDrawn, RunEnded, RunStarted, Saved, StepDone, Warned
from leco_plugin.observers.history import HistoryWriter, history_path, read_history
from leco_plugin.plugins import plugin_manager, run_job


def step(number: int, loss: float = 0.5) -> StepDone:
    return StepDone(number, 9, loss, 1e-4, 0.25, samples=1, seconds=0.5, memory_bytes=5, drift=0.01)


def described(folder: Path) -> RunDescription:
    return describe_job(tiny_job(folder, pairs=[{"target": "é\u2028 <b>", "positive": "红"}]))


def write(folder: Path, *events: Event) -> Path:
    writer = HistoryWriter(described(folder))
    (folder / "tiny").mkdir(exist_ok=True)
    for event in events:
        writer.notify(event)
    return history_path(folder / "tiny", "tiny")


def test_what_was_written_is_read_again(tmp_path):
    """Every kind of event with all its figures, and the job."""
    folder = tmp_path / "tiny"
    started = RunStarted("tiny", 9, (("model", "builtin:tiny"),))
    events: list[Event] = [
        started,
        PicturesDrawn(folder / "samples" / "a.png", 0, "'a'\n", (1, 2), (-1.0, 0.0), 1, 1),
        step(1),
        Saved(folder / "tiny.safetensors", 1, final=True),
        RunEnded(folder / "tiny.safetensors", 1, 2.5, interrupted=False, goal_reached=0.25, effect=0.5, means="a"),
    ]
    # noticed before the start, as it is when a state is damaged
    history = read_history(write(tmp_path, Warned("a state was cut off"), *events))
    assert history.events == (started, Warned("a state was cut off"), *events[1:])
    assert history.run == described(tmp_path)


def test_a_new_run_begins_a_new_history_and_a_resumed_one_drops_what_it_does_again(tmp_path):
    """Up to the step of the state what was written stays; the steps after it are those of the second run."""
    first = RunStarted("tiny", 9, ())
    write(tmp_path, first, step(1), step(2), Warned("after two"), step(3), step(4))
    path = write(tmp_path, RunStarted("tiny", 9, (), done=2), step(3, loss=0.125))
    history = read_history(path)
    assert history.events == (
        first, step(1), step(2), Warned("after two"), RunStarted("tiny", 9, (), done=2), step(3, loss=0.125),
    )  # fmt: skip
    assert history.last_part == history.events[4:]
    assert read_history(write(tmp_path, first)).events == (first,)


def test_a_line_that_was_cut_off_costs_that_line_alone(tmp_path):
    """A run that is killed while it writes can be reported, and resumed."""
    path = write(tmp_path, RunStarted("tiny", 9, ()), step(1), step(2))
    path.write_bytes(path.read_bytes()[:-20])
    assert read_history(path).of(StepDone) == [step(1)]
    write(tmp_path, RunStarted("tiny", 9, (), done=1), step(2))
    assert read_history(path).of(StepDone) == [step(1), step(2)]


def test_a_damaged_history_does_not_keep_a_run_from_going_on(tmp_path):
    """It is begun anew; read by itself, it is one clear error."""
    path = write(tmp_path, RunStarted("tiny", 9, ()), step(1))
    for rubbish in ("not json\n{}\n", "[1]\n[2]\n", '{"event": 3}\n{}\n', ""):
        path.write_text(rubbish)
        with pytest.raises(ConfigError, match="no history of a run"):
            read_history(path)
        write(tmp_path, RunStarted("tiny", 9, (), done=1), step(2))
        assert read_history(path).of(StepDone) == [step(2)]


def test_files_outside_the_folder_of_the_run_are_not_named(tmp_path):
    """A history that somebody gave the user must not lead a report to other files."""
    path = write(tmp_path, RunStarted("tiny", 9, ()), PicturesDrawn(Path("a.png"), 0, "", (0,), (0.0,), 1, 1))
    for name in ("/etc/a.png", "../../a.png"):
        lines = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
        lines[1]["path"] = name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert read_history(path).of(PicturesDrawn)[0].path == path.parent / "a.png"


class Plugin(Recorder):
    @leco_plugin.hookimpl
    def leco_observers(self, run: RunDescription) -> list[Recorder]:
        return [self]


def test_a_run_that_was_resumed_has_one_history(tmp_path):
    """Each step once, from the first to the last, as the observers saw them."""
    sections = {"save": {"save_every": 2, "save_state": True}}
    run = {"train": {"steps": 3, "lr": 1e-3}, **sections}
    run_job(tiny_job(tmp_path, **run), manager=plugin_manager(installed=False))
    again = Plugin()
    resumed = tiny_job(tmp_path, resume=str(tmp_path / "tiny" / "tiny-step00000002-state"), **run)
    run_job(resumed, manager=plugin_manager([again], installed=False))
    history = read_history(history_path(tmp_path / "tiny", "tiny"))
    assert [event.step for event in history.of(StepDone)] == [1, 2, 3]
    assert [event.done for event in history.of(RunStarted)] == [0, 2]
    assert history.last_part == tuple(again.events)
    assert history.run.job == resumed
