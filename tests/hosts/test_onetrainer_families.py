"""Flow families in the real OneTrainer; see test_onetrainer_host.py for what it needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import diffusers
import pytest
from flow_models import write_flow_model
from safetensors.torch import load_file
from tiny_flow import sana_folder

from leco_plugin.network.lora_file import write_tensors

ROOT, PYTHON = os.environ.get("LECO_ONETRAINER"), os.environ.get("LECO_ONETRAINER_PYTHON")
pytestmark = [
    pytest.mark.onetrainer,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (ROOT and PYTHON), reason="LECO_ONETRAINER and LECO_ONETRAINER_PYTHON name no OneTrainer"),
]
KINDS = {
    "STABLE_DIFFUSION_35": "sd3",
    "FLUX_DEV_1": "flux",
    "FLUX_2": "flux2_klein",
    "CHROMA_1": "chroma",
    "QWEN": "qwen_image",
    "Z_IMAGE": "z_image",
    "KREA_2": "krea2",
}
FAMILIES = [*KINDS, "SANA"]


def small_model(name: str, folder: Path) -> Path:
    """A random model of a few channels, as the host loads it."""
    if name == "SANA":
        return sana_folder(folder)
    write_flow_model(KINDS[name], folder)
    if name == "CHROMA_1":
        # the host samples it with a shift that is the same for all sizes
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    for path in folder.glob("text_encoder*/model.safetensors"):
        if "CLIP" in (path.parent / "config.json").read_text():
            # the names that the models in use have; newer transformers write others than the host's reads
            named = {re.sub(r"^(?!text_)", "text_model.", key): value for key, value in load_file(path).items()}
            write_tensors(path, named, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[dict[str, Any]]]]:
    """Where the files of every family are, and what was noted of its schedules, by family."""
    folder, source = tmp_path_factory.mktemp("onetrainer"), Path(__file__).parents[2]
    for name in FAMILIES:
        small_model(name, folder / name)
    script = Path(__file__).parent / "onetrainer_families.py"
    command = [str(PYTHON), str(script), str(ROOT), str(folder), *FAMILIES]
    places = os.pathsep.join(map(str, (source, source / "converters")))
    environment = {**os.environ, "PYTHONPATH": places, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((folder / "schedules.json").read_text())
    return folder, {name: [one for one in found if one["family"] == name.lower()] for name in FAMILIES}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_and_its_prompts_share_calls(runs, name):
    """Two steps over two sizes; nothing is said of rows that disturb one another, nor of its sampler."""
    folder, noted = runs
    assert not [one["error"] for one in noted[name] if "error" in one]
    tensors = load_file(folder / f"{name}.safetensors")
    ups = [tensor for key, tensor in tensors.items() if "lora_B" in key or "lora_up" in key]
    assert ups
    assert all(up.isfinite().all() for up in ups)
    assert any(up.abs().max() > 0 for up in ups)
    assert not any(one["doubts"] for one in noted[name])


@pytest.mark.parametrize("name", FAMILIES)
def test_walks_have_the_noise_levels_that_the_host_samples_with(runs, name):
    """At two sizes; where the host's last stop is beside the picture, those of one step more to the picture itself."""
    folder, noted = runs
    assert len(noted[name]) == 2
    for size, one in zip(((64, 64), (256, 128)), noted[name], strict=True):
        (as_many, _), (_, one_more) = one["host"]
        expected = as_many[:4] if as_many[3] > 0.05 else one_more[:4]
        if name == "QWEN":
            # stretched to an end that is its own, of sigmas that its pipeline makes
            expected = pipeline_sigmas(folder / name, size)
        assert one["ours"] == pytest.approx([*expected, 0.0], abs=1e-4)


def pipeline_sigmas(folder: Path, size: tuple[int, int]) -> list[float]:
    """Of four steps of the diffusers pipeline, run to its end."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline("a shape", height=size[0], width=size[1], num_inference_steps=4, output_type="latent")
    return list(pipeline.scheduler.sigmas[:4].tolist())
