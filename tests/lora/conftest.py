"""One LoRA, really trained on the built-in model, for all tests of the commands on files."""

from __future__ import annotations

from pathlib import Path

import pytest
from lora_files import SLIDER
from models import tiny_job

from leco_plugin.plugins import run_job


@pytest.fixture(scope="session")
def slider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A size slider that reaches a good part of its goal at strength 1."""
    folder = tmp_path_factory.mktemp("slider")
    job = tiny_job(
        folder,
        train={"steps": 30, "lr": 4e-3},
        leco={"max_denoising_steps": 8, "walk": "pool", "pool_size": 4, "pairs_per_step": 2, "preserve": ("a cross",)},
        pairs=SLIDER,
    )
    return run_job(job).path
