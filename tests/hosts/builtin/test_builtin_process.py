"""Whole runs on the built-in model: from a job to a file."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Recorder, tiny_job
from safetensors import safe_open
from safetensors.torch import load_file

import leco_plugin
from leco_plugin.config.run import RunDescription
from leco_plugin.config.schema import JobConfig
from leco_plugin.engine.setup import choose_device
from leco_plugin.errors import ConfigError, ModelError, NetworkError
from leco_plugin.events import RunEnded, RunStarted, Saved, StepDone, Warned
from leco_plugin.hosts.builtin.process import LecoProcess
from leco_plugin.plugins import plugin_manager, run_job

SLIDER = [
    {"target": "star", "positive": "red", "unconditional": "blue", "neutral": "star", "resolution": (64, 64)},
    {
        "target": "star",
        "positive": "red",
        "unconditional": "blue",
        "neutral": "star",
        "resolution": (64, 64),
        "action": "enhance",
        "multiplier": -1.0,
    },
]


class Watching(Recorder):
    """A plugin that observes the run; after ``interrupt_at`` steps it presses Ctrl-C."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        super().__init__()
        self.interrupt_at = interrupt_at

    def notify(self, event: Any) -> None:
        super().notify(event)
        if isinstance(event, StepDone) and event.step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    @leco_plugin.hookimpl
    def leco_observers(self, run: RunDescription) -> list[Recorder]:
        return [self]


def run(job: JobConfig, *plugins: object) -> tuple[Any, Watching]:
    watching = next((plugin for plugin in plugins if isinstance(plugin, Watching)), Watching())
    manager = plugin_manager([watching, *(plugin for plugin in plugins if plugin is not watching)], installed=False)
    return run_job(job, manager=manager), watching


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watching]:
    """A run of five steps with files in between."""
    folder = tmp_path_factory.mktemp("runs")
    train = {"steps": 5, "min_snr_gamma": 5.0, "noise_offset": 0.05, "gradient_accumulation": 2}
    save = {"save_every": 1, "max_step_saves_to_keep": 2, "dtype": "float32"}
    outcome, watching = run(tiny_job(folder, train=train, save=save, meta={"name": "[name] one", "version": "1.0"}))
    assert (outcome.steps, outcome.interrupted) == (5, False)
    return outcome.path, watching


def test_the_file_is_where_it_was_promised(trained):
    """training_folder / name / name.safetensors; it is what the result and the last events name."""
    path, watching = trained
    assert path.parts[-2:] == ("tiny", "tiny.safetensors")
    assert path.is_file()
    assert watching.of(Saved)[-1] == Saved(path, 5, final=True)
    ended = watching.of(RunEnded)[0]
    assert (ended.path, ended.steps, ended.interrupted) == (path, 5, False)


def test_the_lora_has_learnt_something(trained):
    """Every up weight has left zero."""
    tensors = load_file(trained[0])
    assert len(tensors) > 30
    assert all(tensor.abs().max() > 0 for tensor in tensors.values())


def test_intermediate_files_are_kept_as_many_as_asked(trained):
    """Of the four, the two newest, with eight digits."""
    names = sorted(file.name for file in trained[0].parent.glob("*.safetensors"))
    assert names == ["tiny-step00000003.safetensors", "tiny-step00000004.safetensors", "tiny.safetensors"]
    assert [event.step for event in trained[1].of(Saved)] == [1, 2, 3, 4, 5]


def test_the_run_is_reported_from_start_to_end(trained):
    """What is going to happen, each step, each file, and the end."""
    started = trained[1].of(RunStarted)[0]
    facts = dict(started.facts)
    assert (started.name, started.steps, facts["seed"], facts["pairs"]) == ("tiny", 5, "5", "1 (1 erase)")
    assert facts["model"] == "builtin:tiny (sd1, epsilon)"
    assert facts["network"] == "lora, rank 4, alpha 2"
    assert facts["saved to"] == str(trained[0])


def test_the_start_tells_the_sizes_that_a_file_has(trained, tmp_path):
    """Not those of the job, which dim_from_weights leaves aside."""
    network = {"linear": 16, "linear_alpha": 1.0, "network_weights": trained[0], "dim_from_weights": True}
    _, watching = run(tiny_job(tmp_path, network=network, train={"steps": 1}))
    assert dict(watching.of(RunStarted)[0].facts)["network"] == "lora, rank 4, alpha 2"
    assert [step.samples for step in trained[1].of(StepDone)] == [2] * 5
    assert type(trained[1].events[-1]) is RunEnded


def test_the_file_says_what_it_is(trained):
    """In the words that A1111, Civitai and the trainers look for."""
    found = metadata(trained[0])
    expected = {
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_sd_model_name": "builtin:tiny",
        "ss_output_name": "tiny",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "2",
        "ss_seed": "5",
        "ss_steps": "5",
        "ss_max_train_steps": "5",
        "ss_learning_rate": "0.001",
        "ss_optimizer": "adamw",
        "ss_lr_scheduler": "constant",
        "ss_min_snr_gamma": "5",
        "ss_noise_offset": "0.05",
        "ss_gradient_accumulation_steps": "2",
        "ss_mixed_precision": "no",
        "ss_leco_meta_name": "tiny one",
        "ss_leco_meta_version": "1.0",
        "ss_leco_max_denoising_steps": "4",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.prediction_type": "epsilon",
        "modelspec.resolution": "64x64",
    }
    assert {key: found.get(key) for key in expected} == expected
    (asked,) = json.loads(found["ss_leco_pairs"])
    assert (asked["target"], asked["action"], asked["resolution"]) == ("red", "erase", [64, 64])
    assert "modelspec.date" not in found
    assert metadata(trained[0].with_name("tiny-step00000003.safetensors"))["ss_steps"] == "3"


def test_the_file_tells_nothing_of_the_machine(trained):
    """No path, user or host name anywhere in it."""
    with safe_open(trained[0], "pt") as file:
        text = " ".join([*file.keys(), *file.metadata().keys(), *file.metadata().values()])
    folders = [trained[0].parent.parent, Path.cwd(), leco_plugin.__path__[0]]
    assert not [folder for folder in folders if str(folder) in text]
    assert not [name for name in (os.uname().nodename, getpass.getuser()) if re.search(rf"\b{re.escape(name)}\b", text)]
    assert not set("/\\") & set(text.replace("stable-diffusion-v1/lora", ""))


def test_a_model_in_a_folder_is_named_without_its_path(tmp_path):
    """Only the last part of the path."""
    from leco_plugin.tiny import MODEL_FOLDER

    outcome, _ = run(tiny_job(tmp_path, train={"steps": 1}, model={"name_or_path": str(MODEL_FOLDER)}))
    assert metadata(outcome.path)["ss_sd_model_name"] == "model"
    assert str(MODEL_FOLDER) not in outcome.path.read_bytes().decode("latin-1")


@pytest.mark.parametrize("walk", ["fresh", "pool"])
def test_the_same_seed_gives_the_same_bytes(tmp_path, walk):
    """In another folder too; another seed gives another LoRA."""
    leco = {"walk": walk, "pairs_per_step": 2}

    def digest(name: str, seed: int) -> str:
        outcome, _ = run(tiny_job(tmp_path / name, leco=leco, pairs=SLIDER, training_seed=seed))
        return hashlib.sha256(outcome.path.read_bytes()).hexdigest()

    first = digest("one", 5)
    torch.manual_seed(99)
    assert digest("two", 5) == first
    assert digest("three", 6) != first


def losses(folder: Path, **sections: Any) -> list[float]:
    """Of five steps with lr 0, in which nothing but the walks and their weights can differ."""
    train = {"steps": 5, "lr": 0.0, **sections.pop("train", {})}
    _, watching = run(tiny_job(folder, train=train, save={"dtype": "float32"}, **sections))
    return [step.loss for step in watching.of(StepDone)]


@pytest.fixture(scope="module")
def usual_losses(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [
        ("train", "min_snr_gamma", 0.5),
        ("train", "noise_offset", 0.2),
        ("train", "noise_scheduler", "euler"),
        ("train", "gradient_accumulation", 2),
        ("leco", "denoise_guidance_scale", 7.0),
        ("leco", "max_denoising_steps", 6),
        ("leco", "pairs_per_step", 2),
        ("leco", "pool_size", 3),
        ("leco", "preserve", ("blue",)),
        ("leco", "walk", "fresh"),
    ],
)
def test_an_option_reaches_the_run(tmp_path, usual_losses, section, option, value):
    """Other losses than with the default."""
    assert losses(tmp_path, **{section: {option: value}}) != usual_losses


def test_nothing_else_changes_the_losses(tmp_path, usual_losses):
    """Else the comparison above would say nothing."""
    assert losses(tmp_path) == usual_losses


def test_a_seed_that_was_not_given_is_drawn_shown_and_recorded(tmp_path):
    """Given the recorded seed, a run gives the same file."""
    outcome, watching = run(tiny_job(tmp_path / "one", training_seed=None))
    seed = metadata(outcome.path)["ss_seed"]
    assert dict(watching.of(RunStarted)[0].facts)["seed"] == seed
    again, _ = run(tiny_job(tmp_path / "two", training_seed=int(seed)))
    assert again.path.read_bytes() == outcome.path.read_bytes()
    other, _ = run(tiny_job(tmp_path / "three", training_seed=None, train={"steps": 1}))
    assert metadata(other.path)["ss_seed"] != seed


def test_an_interrupted_run_leaves_what_it_has_learnt(tmp_path):
    """A file of the step that was reached, and no final one."""
    outcome, watching = run(tiny_job(tmp_path, train={"steps": 50}), Watching(interrupt_at=2))
    assert (outcome.steps, outcome.interrupted) == (2, True)
    assert [file.name for file in outcome.path.parent.glob("*.safetensors")] == ["tiny-step00000002.safetensors"]
    assert outcome.path.name == "tiny-step00000002.safetensors"
    assert metadata(outcome.path)["ss_steps"] == "2"
    assert watching.of(RunEnded)[0].interrupted


def test_files_of_another_run_are_left_alone(tmp_path):
    """What a run clears away are its own files: neither an older run's, nor anything that is only named alike."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    others = ["tiny-step00000700.safetensors", "tiny-step00000800.safetensors", "tiny-stepchildren.safetensors"]
    for name in others:
        (folder / name).write_text("another run's")
    outcome, _ = run(
        tiny_job(tmp_path, train={"steps": 50}, save={"save_every": 1, "max_step_saves_to_keep": 1, "overwrite": True}),
        Watching(interrupt_at=2),
    )
    assert outcome.path.is_file()
    assert sorted(file.name for file in folder.glob("*.safetensors")) == ["tiny-step00000002.safetensors", *others]


def test_brackets_in_a_name_are_letters_like_others(tmp_path):
    """Names of LoRAs have them; the files are found and cleared away all the same."""
    save = {"save_every": 1, "max_step_saves_to_keep": 1}
    outcome, _ = run(tiny_job(tmp_path, name="a[bc]", save=save))
    assert sorted(file.name for file in outcome.path.parent.glob("*.safetensors")) == [
        "a[bc]-step00000002.safetensors",
        "a[bc].safetensors",
    ]


def test_output_dir_is_the_folder_itself(tmp_path):
    """As sd-scripts has it: no folder of the run's name in between."""
    outcome, _ = run(tiny_job(tmp_path / "unused", output_dir=tmp_path / "loras", train={"steps": 1}))
    assert outcome.path == tmp_path / "loras" / "tiny.safetensors"
    assert not (tmp_path / "unused").exists()


def test_the_file_has_the_precision_that_was_asked_for(tmp_path):
    """float16 unless the job says otherwise."""
    outcome, _ = run(tiny_job(tmp_path, train={"steps": 1}))
    assert {tensor.dtype for tensor in load_file(outcome.path).values()} == {torch.float16}


@pytest.mark.parametrize(("dtype", "about"), [("bf16", 0.5), ("fp16", 0.1)])
def test_low_precision_trains(tmp_path, dtype, about):
    """The loss is finite and about what it is in float32, and weights move.

    How a processor rounds in 8 bits moves the loss by up to a fifth, in 11 bits by a fiftieth: kernels differ.
    """
    losses = {}
    for precision in ("fp32", dtype):
        outcome, watching = run(tiny_job(tmp_path / precision, train={"dtype": precision, "steps": 2}))
        losses[precision] = watching.of(StepDone)[0].loss
    assert losses[dtype] == pytest.approx(losses["fp32"], rel=about)
    assert any(key.endswith("up.weight") and weight.any() for key, weight in load_file(outcome.path).items())


def test_checkpointing_trains_to_the_same_lora(tmp_path):
    """It costs time and saves memory; what is learnt is equal up to rounding."""
    files = []
    for checkpointing in (False, True):
        train = {"gradient_checkpointing": checkpointing}
        job = tiny_job(tmp_path / str(checkpointing), train=train, save={"dtype": "float32"}, pairs=SLIDER)
        files.append(load_file(run(job)[0].path))
    for key, tensor in files[0].items():
        torch.testing.assert_close(files[1][key], tensor, rtol=1e-2, atol=1e-5)


def test_the_base_model_is_not_changed(tmp_path):
    """Bytes on disk, and weights in memory other than the LoRA's."""
    from leco_plugin.families.load import load_model
    from leco_plugin.tiny import MODEL_FOLDER

    before = {f: hashlib.sha256(f.read_bytes()).digest() for f in MODEL_FOLDER.rglob("*") if f.is_file()}
    loaded: list[Any] = []

    class Keeping:
        @leco_plugin.hookimpl
        def leco_load_model(self, job: JobConfig, device: torch.device) -> Any:
            loaded.append(load_model("builtin:tiny", dtype="fp32", device=device))
            return loaded[0]

    run(tiny_job(tmp_path), Keeping())
    original = dict(load_model("builtin:tiny", dtype="fp32", device=torch.device("cpu")).module.named_parameters())
    trained = {
        name.replace(".base_layer", ""): weight
        for name, weight in loaded[0].module.named_parameters()
        if ".lora_" not in name
    }
    assert trained.keys() == original.keys()
    assert all(torch.equal(trained[name], weight) for name, weight in original.items())
    assert {f: hashlib.sha256(f.read_bytes()).digest() for f in before} == before


def test_a_prompt_that_is_too_long_is_warned_of(tmp_path):
    """Once, by its text; the run goes on."""
    long = "red " * 100
    pairs = [{"target": long, "positive": long, "resolution": (64, 64)}]
    _, watching = run(tiny_job(tmp_path, pairs=pairs, train={"steps": 1}))
    (warning,) = watching.of(Warned)
    assert "reads only the beginning" in warning.message
    assert repr(long) in warning.message


def test_dynamic_crops_are_warned_of_where_they_do_nothing(tmp_path):
    """Stable Diffusion 1.x has no size conditioning."""
    pairs = [{"target": "red", "positive": "red", "resolution": (64, 64), "dynamic_crops": True}]
    _, watching = run(tiny_job(tmp_path, pairs=pairs, train={"steps": 1}))
    (warning,) = watching.of(Warned)
    assert "dynamic_crops has no effect on sd1" in warning.message


def test_a_run_without_anything_odd_warns_of_nothing(trained):
    """Warnings mean something."""
    assert [event for event in trained[1].of(Warned) if "show little" not in event.message] == []


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "privateuseone", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    """In one sentence with the device's name, and with a way out."""
    with pytest.raises(ConfigError, match=f"'{name}' cannot be used here") as caught:
        choose_device(name)
    assert "\n" not in caught.value.problems[0].message
    assert "cpu" in caught.value.problems[0].fix


def test_auto_takes_what_there_is():
    """An accelerator if there is one, else the CPU."""
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == expected


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_loaded(tmp_path):
    """A file stands where the folder should be; the model is not even looked for."""
    (tmp_path / "file").write_text("")
    job = tiny_job(tmp_path / "file", model={"name_or_path": "no such model"})
    with pytest.raises(ConfigError, match="cannot write to") as caught:
        run(job)
    assert "training_folder" in caught.value.problems[0].fix


@pytest.mark.parametrize("save", [{}, {"format": "pt"}, {"no_metadata": True}])
def test_a_lora_that_its_precision_does_not_hold_is_written_in_float32(tmp_path, save):
    """1e30 is no float16: nothing is lost, and it is said."""
    outcome, watching = run(tiny_job(tmp_path, train={"lr": 1e30, "steps": 1}, save=save))
    read = load_file if outcome.path.suffix == ".safetensors" else partial(torch.load, weights_only=True)
    tensors = read(outcome.path)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert max(tensor.abs().max() for tensor in tensors.values()) > 1e29
    assert "is written in float32, since float16 does not hold it" in " ".join(w.message for w in watching.of(Warned))


def test_without_a_plugin_for_it_a_model_or_network_is_refused(tmp_path):
    """Where no plugin answers."""
    manager = plugin_manager(installed=False)
    manager.unregister(name="builtin-network")
    with pytest.raises(NetworkError, match="'lora'"):
        LecoProcess(tiny_job(tmp_path), manager.hook).run()
    manager.unregister(name="builtin-model")
    with pytest.raises(ModelError, match="'builtin:tiny'"):
        LecoProcess(tiny_job(tmp_path), manager.hook).run()


def test_a_date_is_recorded_only_where_the_environment_sets_it(tmp_path, monkeypatch):
    """SOURCE_DATE_EPOCH, in seconds since 1970; nonsense in it is refused."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    outcome, _ = run(tiny_job(tmp_path, train={"steps": 1}))
    assert metadata(outcome.path)["modelspec.date"] == "1970-01-02T00:00:00+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH"):
        run(tiny_job(tmp_path / "other", train={"steps": 1}))
