"""What every test runs under: one thread, no network, no colours forced from outside."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

# before torch is imported: the tests of files never import it, and one thread gives the same sums everywhere
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[name] = "1"
for name in ("SOURCE_DATE_EPOCH", "FORCE_COLOR", "NO_COLOR", "COLUMNS"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def flow_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small flow model of a kind; each is made once, and must not be changed."""

    @cache
    def made(kind: str) -> Path:
        from flow_models import write_flow_model

        return write_flow_model(kind, tmp_path_factory.mktemp(kind))

    return made
