"""What ai-toolkit does not keep of a run, in a folder beside its own optimizer.pt."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CPU, LineModel, pair, seeded

from leco_plugin.config.schema import LecoConfig
from leco_plugin.engine.assemble import assemble
from leco_plugin.engine.measure import NoNetwork
from leco_plugin.engine.progress import Progress
from leco_plugin.engine.report import Meter
from leco_plugin.engine.step import StepSettings
from leco_plugin.hosts.ai_toolkit import resume
from leco_plugin.hosts.kept import Kept


def kept(folder: Path, **described: str) -> Kept:
    """A run over a model of one number, whose pool is filled."""
    pairs = [pair(2, 5, 2, 4)]
    leco = LecoConfig(walk="pool", pool_size=2, max_denoising_steps=4)
    training = assemble(
        pairs, leco, StepSettings(), denoiser=LineModel(), network=NoNetwork(), sampler="ddim", generator=seeded(0)
    )
    return Kept(folder / resume.FOLDER, described, training.walks, Meter(CPU, 10, Progress(pairs)), CPU)


@pytest.mark.parametrize("enough", [None, (3, 0.25)])
def test_a_run_goes_on_where_it_was_and_knows_whether_its_goal_was_reached(tmp_path: Path, enough: Any):
    """With the random numbers that it would have drawn."""
    torch.manual_seed(7)
    kept(tmp_path).write(3, enough=enough)
    expected = torch.rand(2)
    torch.manual_seed(0)
    assert resume.restore(kept(tmp_path), 3) == (enough, "")
    assert torch.equal(torch.rand(2), expected)


def test_a_state_that_is_of_no_use_is_told_of(tmp_path: Path):
    """The host goes on from its newest file in any case; the walks begin anew, with the reason."""
    for state, step, said in (
        (kept(tmp_path), 3, "walks begin anew: its state"),
        (kept(tmp_path), 4, "is of step 3, the newest file of step 4"),
        (replace(kept(tmp_path), described={"leco.walk": "fresh"}), 3, "since the job has changed"),
    ):
        found = resume.restore(state, step)
        assert found[0] is None
        assert said in found[1]
        kept(tmp_path).write(3, enough=None)


def test_the_newest_file_is_the_job_s_own(tmp_path: Path):
    """Neither its history, nor that of a job whose name begins alike, nor a sample; a folder may be one."""
    names = ["size_000000002.safetensors", "size.safetensors", "size_xl.safetensors", "size.run.jsonl", "size_1.png"]
    assert resume.newest(tmp_path, "size") is None
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (number, number))
    assert resume.newest(tmp_path, "size") == tmp_path / "size.safetensors"
    (tmp_path / "size_000000004").mkdir()
    assert resume.newest(tmp_path, "size") == tmp_path / "size_000000004"
