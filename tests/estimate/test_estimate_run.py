"""What a run is estimated to need, and what is said about it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from models import seeded, tiny_job

from leco_plugin.config.schema import JobConfig
from leco_plugin.engine.concepts import encode_concepts
from leco_plugin.engine.rows import Model, Samplers
from leco_plugin.engine.step import LecoStep, StepSettings
from leco_plugin.engine.walks import make_walks
from leco_plugin.estimate.lines import estimate_fields, estimate_lines
from leco_plugin.estimate.model_files import UnknownModelError, find_model
from leco_plugin.estimate.rows import rows_of, widest_calls
from leco_plugin.estimate.run import estimate, what_fits
from leco_plugin.families.load import load_model
from leco_plugin.network.create import create_network

GIB = 2**30


def header_only(path: Path, key: str) -> Path:
    """A .safetensors file of one number, with a key that tells the family."""
    header = json.dumps({key: {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    return path


@pytest.fixture
def sdxl_job(tmp_path: Path) -> JobConfig:
    file = header_only(tmp_path / "xl.safetensors", "conditioner.embedders.1.model.ln_final.weight")
    pairs = [{"target": "a", "positive": "b", "resolution": (1024, 1024)}]
    return tiny_job(tmp_path, model={"name_or_path": str(file)}, train={"dtype": "bf16"}, pairs=pairs)


@pytest.mark.parametrize("walk", ["pool", "fresh"])
@pytest.mark.parametrize("preserve", [(), ("blue",)], ids=["", "preserve"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_rows_are_those_that_a_run_asks_for(tmp_path, walk, preserve, guidance):
    """Counted at the model over several rounds of walks; the stops are drawn, so within a twentieth."""
    pair = {"target": "red circle", "positive": "red", "unconditional": "blue", "batch_size": 2, "resolution": (64, 64)}
    leco = {"walk": walk, "preserve": preserve, "denoise_guidance_scale": guidance, "max_denoising_steps": 5}
    job = tiny_job(tmp_path, leco=leco, pairs=[pair], train={"steps": 200})
    denoiser = load_model("builtin:tiny", dtype="fp32", device=torch.device("cpu"))
    counted = [0, 0]

    def count(latents, timesteps, text, sizes):
        counted[torch.is_grad_enabled()] += len(latents)
        zeros = torch.zeros_like(latents)
        return zeros + parameter if torch.is_grad_enabled() else zeros

    parameter = torch.zeros((), requires_grad=True)
    network = create_network(job.network, denoiser.module, seed=0)
    denoiser.predict = count
    concepts = encode_concepts(job.pairs, denoiser, preserve)
    settings = StepSettings(denoise_guidance_scale=guidance)
    samplers = Samplers(denoiser, "ddim", 5)
    step = LecoStep(Model(denoiser, network, concepts.table), concepts.items, samplers, settings, concepts.untouched)
    walks = make_walks(job.leco, step, job.pairs, seeded(0))
    for _ in range(200):
        step.run(walks, lambda loss: loss.backward())
    asked = rows_of(job.pairs[0], job)
    assert counted[1] == 200 * 2 * asked.student
    assert counted[0] == pytest.approx(200 * 2 * asked.without_gradient, rel=0.05)


def test_the_widest_calls_have_all_pairs_of_a_step(tmp_path):
    """Three teacher prompts, the target, two rows of an untouched prompt and that of the walk; for six samples."""
    pair = {"target": "t", "positive": "p", "unconditional": "u", "neutral": "n", "batch_size": 3}
    job = tiny_job(tmp_path, leco={"walk": "pool", "pairs_per_step": 2}, pairs=[pair])
    assert (widest_calls(job).without_gradient, widest_calls(job).student) == (2 * 3 * 7, 2 * 3)


def test_sdxl_at_its_own_size_is_what_its_users_know(sdxl_job):
    """4.8 GiB of weights in bf16, text encoders of 3.0 GiB in float32, more than 12 GB without checkpointing."""
    parts = estimate(sdxl_job).parts
    assert parts.model / GIB == pytest.approx(2_567_463_684 * 2 / GIB)
    assert parts.text_encoders == 4 * (123_060_480 + 694_659_840)
    assert estimate_fields(sdxl_job)["fits_gb"] == [16, 24]


def test_what_would_make_it_fit_is_tried_in_order_of_its_cost(sdxl_job):
    """Only what is needed is named, and the estimate is that with it."""
    options, then = what_fits(sdxl_job, 11 * GIB)
    assert options == ["train.gradient_checkpointing: true"]
    assert then.parts.peak < 11 * GIB < estimate(sdxl_job).parts.peak
    options, then = what_fits(sdxl_job, 7 * GIB)
    assert options == ["train.gradient_checkpointing: true", "memory.fp8_base: true"]
    assert what_fits(sdxl_job, 100 * GIB)[0] == []


def test_the_free_memory_of_the_card_here_decides(sdxl_job, tmp_path, monkeypatch):
    """As nvidia-smi says it."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'NVIDIA Test, 12288, 11264'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    text = "\n".join(estimate_lines(sdxl_job.model_copy(update={"device": "cuda"})))
    assert "NVIDIA Test: 11.0 GiB of 12.0 GiB are free; would fit with train.gradient_checkpointing: true" in text
    program.write_text("#!/bin/sh\nexit 9\n")
    text = "\n".join(estimate_lines(sdxl_job))
    assert "fits a card of 16, 24 GB" in text
    assert "a card of 12 GB: would fit with train.gradient_checkpointing: true" in text


def test_time_grows_with_the_steps_and_is_said_to_be_rough(sdxl_job):
    """About so long on cards by name."""
    *_, rough, times = estimate_lines(sdxl_job)
    assert "within a factor of two" in rough
    assert times.startswith("  3 steps: about ")
    assert "on an RTX 3060" in times
    assert "a CPU of eight cores" in times


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("someone/not-in-the-cache", "is not in the hub's cache"),
        ("no/such/folder/", "there is no"),
        ("/no/such/file.safetensors", "there is no /no/such/file.safetensors"),
    ],
)
def test_what_is_not_at_hand_is_said_and_nothing_is_downloaded(name, reason, tmp_path, monkeypatch):
    """One line, and the check goes on."""
    job = tiny_job(tmp_path, model={"name_or_path": name})
    (line,) = estimate_lines(job)
    assert "cannot be told without the model" in line
    assert reason in line
    assert "unknown" in estimate_fields(job)


def test_a_checkpoint_or_a_damaged_file_is_not_opened(tmp_path):
    """A pickle tells nothing unless it is loaded."""
    for name, content in {"a.ckpt": b"\x80", "b.safetensors": b"\xff" * 20, "c.safetensors": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnknownModelError):
            find_model(str(tmp_path / name))
