"""Flow families in the real ai-toolkit; see test_ai_toolkit_real.py for what it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import leco_plugin
from leco_plugin.commands import main as cli
from leco_plugin.errors import ModelError
from leco_plugin.events import Warned
from leco_plugin.hosts.ai_toolkit.architectures import MIXED, check_architecture
from leco_plugin.observers.history import history_path, read_history

CHECKOUT = os.environ.get("LECO_AI_TOOLKIT")
pytest.importorskip("einops", reason="the host's models need einops")
pytestmark = [
    pytest.mark.ai_toolkit,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CHECKOUT, reason="LECO_AI_TOOLKIT names no folder of ai-toolkit"),
]
FAMILIES = (
    "flux", "sd3", "lumina2", "qwen_image", "zimage", "chroma", "krea2", "flux2", "flux2_klein_4b", "flux2_klein_9b",
    "hidream", "ernie_image", "anima", "nucleus_image", "ideogram4", "boogu_image", "mageflow",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[dict[str, Any]]]]:
    """Where the files of every family are, and what was noted of its schedules, by family."""
    assert CHECKOUT
    folder, here = tmp_path_factory.mktemp("ai_toolkit"), Path(__file__).parent
    was_there = (Path(CHECKOUT) / "extensions" / "leco.py").exists()
    assert cli.main(["host", "install", "ai-toolkit", CHECKOUT]) == 0
    command = [sys.executable, str(here / "ai_toolkit_stand_in.py"), str(here / "ai_toolkit_families.py"), str(folder)]
    done = subprocess.run(
        [*command, *FAMILIES],
        cwd=CHECKOUT,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(leco_plugin.__file__).parents[1]),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "hub"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if not was_there:
        assert cli.main(["host", "remove", "ai-toolkit", CHECKOUT]) == 0
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((folder / "schedules.json").read_text())
    return folder / "out", {name: [one for one in found if one["family"] == name] for name in FAMILIES}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_and_a_user_learns_of_mixed_rows(runs, name):
    """Two steps over two sizes; every prompt is asked alone where those of one call disturb one another."""
    folder, _ = runs
    tensors = load_file(folder / name / f"{name}.safetensors")
    ups = [tensor for key, tensor in tensors.items() if "lora_B" in key or "lora_up" in key]
    assert ups
    assert all(up.isfinite().all() for up in ups)
    assert any(up.abs().max() > 0 for up in ups)
    said = [event.message for event in read_history(history_path(folder / name, name)).of(Warned)]
    assert any(f"{name} takes one prompt a call" in message for message in said) == (name in MIXED)
    assert not any("they are known to differ" in message for message in said)
    # a model that hears no text would not show that rows are mixed
    assert not any("has nothing to train" in message for message in said)


@pytest.mark.parametrize("name", FAMILIES)
def test_walks_have_the_noise_levels_that_the_host_samples_with(runs, name):
    """At two sizes; the host's own pictures of flux, sd3 and lumina2 aside, whose pipelines of diffusers are meant."""
    _, noted = runs
    assert len(noted[name]) == 2
    for one in noted[name]:
        assert not one["doubts"]
        # whole numbers of 1000 are what hidream's model is shown
        assert one["ours"] == pytest.approx([*one["host"], 0.0], abs=1e-3 if name == "hidream" else 1e-4)


def test_every_architecture_of_the_host_is_trained_or_refused_for_a_reason_of_its_own(runs):
    """As its own extensions register them."""
    folder, _ = runs
    names = json.loads((folder.parent / "architectures.json").read_text())
    assert set(FAMILIES) - {"flux", "sd3", "lumina2"} <= set(names)
    unknown = [name for name in names if "is not known to LECO" in _refusal(name)]
    assert not unknown


def _refusal(name: str) -> str:
    try:
        check_architecture(name)
    except ModelError as error:
        return str(error)
    return ""
