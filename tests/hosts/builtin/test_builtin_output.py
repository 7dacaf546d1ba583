"""The files of a run: formats, what they say, and which are cleared away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_job
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file

from leco_plugin.config.schema import SaveConfig
from leco_plugin.hosts.builtin.output import Kept
from leco_plugin.plugins import plugin_manager, run_job


def trained(folder: Path, **save: Any) -> Path:
    """A run of two steps."""
    job = tiny_job(folder, train={"steps": 2}, save={"dtype": "float32", **save})
    return run_job(job, manager=plugin_manager(installed=False)).path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return load_file(trained(tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("ending", ["ckpt", "pt"])
def test_a_pickled_file_holds_the_same_tensors(tmp_path, plain, ending):
    """torch.load reads them without running code; intermediate files have the format too."""
    path = trained(tmp_path, format=ending, save_every=1)
    assert path.name == f"tiny.{ending}"
    assert sorted(file.name for file in path.parent.glob(f"*.{ending}")) == [
        f"tiny-step00000001.{ending}",
        f"tiny.{ending}",
    ]
    found = torch.load(path, weights_only=True)
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[key], value) for key, value in plain.items())


def test_the_same_seed_gives_the_same_pickle(tmp_path):
    """Byte for byte."""
    assert trained(tmp_path / "a", format="pt").read_bytes() == trained(tmp_path / "b", format="pt").read_bytes()


def test_a_file_without_metadata_has_the_weights_alone(tmp_path, plain):
    """Not even what describes the network."""
    path = trained(tmp_path, no_metadata=True)
    with safe_open(path, "pt") as file:
        assert not file.metadata()
    assert all(torch.equal(load_file(path)[key], value) for key, value in plain.items())


def test_a_remark_is_in_the_metadata(tmp_path):
    """Under sd-scripts' key; the rate of the UNet, the loss and the optimizer's parameters are there too."""
    train = {"steps": 1, "unet_lr": 5e-4, "loss_type": "huber", "optimizer_params": {"weight_decay": 0.1}}
    job = tiny_job(tmp_path, train=train, save={"training_comment": "blue – no more"})
    with safe_open(run_job(job, manager=plugin_manager(installed=False)).path, "pt") as file:
        found = file.metadata()
    assert found["ss_training_comment"] == "blue – no more"
    assert (found["ss_unet_lr"], found["ss_loss_type"]) == ("0.0005", "huber")
    assert found["ss_leco_optimizer_params"] == '{"weight_decay": 0.1}'


@pytest.mark.parametrize(
    ("most", "last", "left"),
    [
        (2, None, [400, 500]),
        (None, 200, [300, 400, 500]),
        (None, None, [100, 200, 300, 400, 500]),
        (1, 200, [500]),
        (None, 250, [300, 400, 500]),
    ],
)
def test_files_are_cleared_away_by_number_and_by_age(tmp_path, most, last, left):
    """By age: those more than so many steps before the newest, as sd-scripts has it."""
    dropped: list[Path] = []
    kept = Kept(most, last, dropped.append)
    for step in range(100, 600, 100):
        kept.add(step, tmp_path / str(step))
    assert sorted(kept.paths) == left
    assert [int(path.name) for path in dropped] == [step for step in range(100, 600, 100) if step not in left]


def test_a_run_clears_away_by_age(tmp_path):
    """Five steps, a file each: the last one in between is 4, and those before 3 are gone."""
    save = {"save_every": 1, "save_last_n_steps": 1, "max_step_saves_to_keep": None}
    job = tiny_job(tmp_path, train={"steps": 5}, save=save)
    path = run_job(job, manager=plugin_manager(installed=False)).path
    assert sorted(file.stem for file in path.parent.glob("*.safetensors")) == [
        "tiny",
        "tiny-step00000003",
        "tiny-step00000004",
    ]


def test_a_format_that_nobody_reads_is_refused():
    """Before anything runs."""
    with pytest.raises(ValidationError, match="safetensors"):
        SaveConfig(format="bin")
