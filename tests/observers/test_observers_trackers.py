"""Trackers: the console's figures on disk, and what is said where a package is missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from models import Recorder, tiny_job
from pydantic import ValidationError

import leco_plugin
from leco_plugin.config.run import RunDescription, describe_job
from leco_plugin.config.schema import LoggingConfig
from leco_plugin.errors import ConfigError
from leco_plugin.events import RunEnded, RunStarted, StepDone, Warned
from leco_plugin.observers.trackers import Trackers, check_logging, figures, wanted_trackers
from leco_plugin.plugins import plugin_manager, run_job


class Watching(Recorder):
    @leco_plugin.hookimpl
    def leco_observers(self, run: RunDescription) -> list[Recorder]:
        return [self]


class Remembering:
    """Stands where accelerate's trackers do."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(values)

    def log(self, values: dict[str, Any], step: int | None) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finished")


STEP = StepDone(3, 9, 0.5, 1e-4, 0.25, samples=4, seconds=2.0, memory_bytes=2**31, effect=0.5)


def test_a_tracker_is_told_what_the_console_shows(tmp_path):
    """Settings first, then figures by step, then the end."""
    tracker = Remembering()
    made: list[Any] = []

    def make(logging: LoggingConfig, now: str) -> list[Any]:
        made.append((logging, now))
        return [tracker]

    job = tiny_job(tmp_path, logging={"logging_dir": tmp_path})
    observer = Trackers(describe_job(job), make)
    for event in (RunStarted("tiny", 9, ()), Warned("x"), STEP, RunEnded(tmp_path, 9, 1.0, False)):
        observer.notify(event)
    assert made[0][0] is job.logging
    shown = {"loss": 0.5, "lr": 1e-4, "samples_per_second": 2.0, "memory_gib": 2.0, "goal_reached": 0.25, "effect": 0.5}
    assert tracker.told == [describe_job(job).options, (3, shown), "finished"]


def test_what_was_not_measured_is_not_logged():
    """No goal, no figure."""
    assert "goal_reached" not in figures(StepDone(3, 9, 0.5, 1e-4, None, 4, 2.0, 2**31))


def test_settings_are_plain_and_tell_nothing_of_the_machine(tmp_path):
    """Dotted names, and of paths only the last part."""
    job = tiny_job(tmp_path, model={"name_or_path": str(tmp_path / "my_model")}, output_dir=tmp_path)
    found = describe_job(job).options
    assert (found["train.steps"], found["leco.walk"], found["pairs"]) == (3, "pool", 1)
    assert found["model.name_or_path"] == "my_model"
    assert all(isinstance(value, (bool, int, float, str)) for value in found.values())
    assert not [value for value in found.values() if str(tmp_path) in str(value)]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ()),
        ({"logging_dir": "logs"}, ("tensorboard",)),
        ({"log_with": "wandb"}, ("wandb",)),
        ({"logging_dir": "logs", "log_with": "all"}, ("tensorboard", "wandb")),
    ],
)
def test_a_folder_alone_means_tensorboard(options, names):
    """And nothing at all means no tracker."""
    assert wanted_trackers(LoggingConfig(**options)) == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_with": "tensorboard"}, "log_with tensorboard needs logging_dir"),
        ({"log_with": "all"}, "log_with all needs logging_dir"),
        ({"logging_dir": "logs", "wandb_run_name": "x"}, "means nothing without wandb"),
        ({"log_with": "aim", "logging_dir": "logs"}, "tensorboard"),
    ],
)
def test_what_cannot_be_logged_is_refused(options, message):
    """Before anything runs."""
    with pytest.raises(ValidationError, match=message):
        LoggingConfig(**options)


@pytest.mark.parametrize(("log_with", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_missing_package_is_said_before_training(tmp_path, monkeypatch, log_with, package):
    """In one sentence with the command that installs it; the model is not even looked for."""
    there = importlib.util.find_spec
    gone = {"tensorboard", "tensorboardX", "wandb"}
    monkeypatch.setattr("leco_plugin.observers.trackers.find_spec", lambda name: None if name in gone else there(name))
    logging = {"logging_dir": tmp_path / "logs", "log_with": log_with}
    job = tiny_job(tmp_path, logging=logging, model={"name_or_path": "no such model"})
    with pytest.raises(ConfigError, match=f"log_with {log_with} needs the package {package}") as caught:
        run_job(job, manager=plugin_manager(installed=False))
    assert caught.value.problems[0].fix.startswith(f"pip install {package}")
    assert not (tmp_path / "tiny").exists()
    check_logging(LoggingConfig())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_the_figures_of_the_run(tmp_path):
    """Read back from its files: every step, with the values that observers got."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging = {"logging_dir": tmp_path / "logs", "log_prefix": "try_", "log_tracker_name": "mine"}
    watching = Watching()
    run_job(tiny_job(tmp_path, logging=logging), manager=plugin_manager([watching], installed=False))
    assert [event for event in watching.of(Warned) if "show little" not in event.message] == []
    (folder,) = (tmp_path / "logs").iterdir()
    assert folder.name.startswith("try_20")
    found = EventAccumulator(str(folder / "mine")).Reload()
    losses = {event.step: event.value for event in found.Scalars("loss")}
    assert losses == pytest.approx({event.step: event.loss for event in watching.of(StepDone)})
    assert [event.value for event in found.Scalars("lr")] == pytest.approx([1e-3] * 3)


@pytest.mark.filterwarnings("ignore")
def test_wandb_is_given_the_run_offline(tmp_path, monkeypatch):
    """Into the run's own folder; nothing goes over the network."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logging = {"logging_dir": tmp_path / "logs", "log_with": "wandb", "wandb_run_name": "first"}
    watching = Watching()
    run_job(tiny_job(tmp_path, logging=logging), manager=plugin_manager([watching], installed=False))
    assert [event for event in watching.of(Warned) if "show little" not in event.message] == []
    assert list(Path(tmp_path / "logs").rglob("*.wandb"))


def test_without_trackers_accelerate_is_not_loaded_for_them(tmp_path):
    """The usual run."""
    manager = plugin_manager(installed=False)
    observers = manager.subset_hook_caller("leco_observers", [])(run=describe_job(tiny_job(tmp_path)))
    kinds = [type(observer).__name__ for some in observers for observer in some]
    assert "Trackers" not in kinds
    assert "wandb" not in sys.modules or importlib.util.find_spec("wandb")
