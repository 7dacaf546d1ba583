"""What is counted without a model is what a run asks its model for."""

from __future__ import annotations

import pytest
import torch
from models import seeded, tiny_job

from leco_plugin.engine.assemble import assemble
from leco_plugin.engine.measure import NoNetwork
from leco_plugin.engine.step import StepSettings
from leco_plugin.estimate.steps import count_steps
from leco_plugin.families.load import load_model
from leco_plugin.network.create import create_network

PAIR = {"target": "red circle", "positive": "red", "unconditional": "blue", "batch_size": 2, "resolution": (64, 64)}


@pytest.fixture(scope="module")
def tiny():
    return load_model("builtin:tiny", dtype="fp32", device=torch.device("cpu"))


@pytest.mark.parametrize("walk", ["pool", "fresh"])
@pytest.mark.parametrize("preserve", [(), ("blue",)], ids=["", "preserve"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_rows_are_those_that_a_run_asks_for(tmp_path, monkeypatch, walk, preserve, guidance):
    """Counted at the model over several rounds of walks with another seed; the stops are drawn: within a twentieth."""
    leco = {"walk": walk, "preserve": preserve, "denoise_guidance_scale": guidance, "max_denoising_steps": 5}
    job = tiny_job(tmp_path, leco=leco, pairs=[PAIR], train={"steps": 400})
    denoiser = load_model("builtin:tiny", dtype="fp32", device=torch.device("cpu"))
    network = create_network(job.network, denoiser.module, seed=0)
    counted = [0, 0]

    def count(latents, timesteps, text, sizes):
        counted[torch.is_grad_enabled()] += len(latents)
        return torch.zeros_like(latents, requires_grad=torch.is_grad_enabled())

    monkeypatch.setattr(denoiser, "predict", count)
    training = assemble(
        job.pairs,
        job.leco,
        StepSettings(denoise_guidance_scale=guidance),
        denoiser=denoiser,
        network=network,
        sampler="ddim",
        generator=seeded(7),
    )
    for _ in range(400):
        training.step.run(training.walks, lambda loss: loss.backward())
    asked = {gradient: rows for (_, gradient), rows in count_steps(job, denoiser, network).rows.items()}
    assert counted[1] == pytest.approx(400 * asked[True])
    assert counted[0] == pytest.approx(400 * asked[False], rel=0.05)


def test_accumulation_and_calls(tmp_path, tiny):
    """At guidance 1 and stride 1 a step is a call of the teacher, one of the student with its backward pass, and no
    walk but where a new one begins; twice as many where gradients of two are averaged."""
    leco = {"denoise_guidance_scale": 1.0, "pool_stride": 1, "max_denoising_steps": 1000}
    once, twice = (
        count_steps(
            tiny_job(tmp_path, leco=leco, train={"steps": 10**9, "gradient_accumulation": n}), tiny, NoNetwork()
        )
        for n in (1, 2)
    )
    assert 4 <= once.calls < 4.2
    assert twice.calls / once.calls == pytest.approx(2)


def test_the_widest_calls_have_all_pairs_of_a_step(tmp_path, tiny):
    """Three teacher prompts, the target, two of one untouched, one of the walk, two of one on its way; six times."""
    pair = {"target": "t", "positive": "p", "unconditional": "u", "neutral": "n", "batch_size": 3}
    job = tiny_job(tmp_path, leco={"walk": "pool", "pairs_per_step": 2}, pairs=[pair])
    steps = count_steps(job, tiny, NoNetwork())
    assert (steps.teacher.rows, steps.student.rows) == (2 * 3 * 9, 2 * 3)
    # teacher, target, untouched; then the untouched and the walks' with the network
    assert steps.teacher.strength == (0.0,) * 6 * 5 + (1.0,) * 6 * 4
    assert steps.student.strength == 1.0


def test_the_widest_call_is_of_the_largest_size(tmp_path, tiny):
    """Whatever the walks draw where resolution is dynamic."""
    pairs = [PAIR, {**PAIR, "resolution": (128, 128), "dynamic_resolution": True, "batch_size": 1}]
    steps = count_steps(tiny_job(tmp_path, pairs=pairs), tiny, NoNetwork())
    assert (steps.teacher.shape, steps.student.shape) == ((4, 16, 16), (4, 16, 16))
    assert {shape for shape, _ in steps.rows} == {(4, 8, 8), (4, 8, 16), (4, 16, 8), (4, 16, 16)}
