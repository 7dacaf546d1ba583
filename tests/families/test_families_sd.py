"""Stable Diffusion 1.x behind the contract, with diffusers' pipeline as the oracle."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from models import CPU, SD_SCHEDULE, SmallDenoiser, randn, seeded, small_unet
from torch import Tensor

from leco_plugin.core.walk import Walk, guided
from leco_plugin.errors import ModelError
from leco_plugin.families.load import load_model
from leco_plugin.families.sd import SDDenoiser
from leco_plugin.families.text import TensorTable
from leco_plugin.tiny import MODEL_FOLDER

PROMPTS = ["a big red star", "", "circle, blue", "red " * 100]


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(MODEL_FOLDER, safety_checker=None).to(torch.float32)


@pytest.fixture(scope="module")
def denoiser() -> SDDenoiser:
    return load_model("builtin:tiny", dtype="fp32", device=CPU)


def predict(denoiser: SDDenoiser, latents: Tensor, timestep: int, table: TensorTable, prompts: list[int]) -> Tensor:
    timesteps = torch.tensor(timestep).expand(len(latents))
    with torch.no_grad():
        return denoiser.predict(latents, timesteps, table.rows(prompts), torch.zeros(len(latents), 6))


def test_prompts_are_encoded_as_the_pipeline_does(pipeline, denoiser):
    """Last hidden states, padded and cut to 77 tokens."""
    with torch.no_grad():
        expected, _ = pipeline.encode_prompt(PROMPTS, CPU, 1, do_classifier_free_guidance=False)
    table = denoiser.encode(PROMPTS)
    assert table.text.shape == (4, 77, 64)
    torch.testing.assert_close(table.text, expected, rtol=1e-5, atol=1e-5)


def test_an_embedding_does_not_depend_on_its_neighbours(denoiser):
    """Bit for bit the same, whatever else is in the table."""
    together, alone = denoiser.encode(PROMPTS), denoiser.encode([PROMPTS[0]])
    assert torch.equal(together.text[0], alone.text[0])


def test_rows_are_prompts_by_number(denoiser):
    """In any order, and as often as asked."""
    table = denoiser.encode(PROMPTS)
    assert torch.equal(table.rows([2, 0, 2]).text, table.text[[2, 0, 2]])
    assert table.rows([1]).pooled is None
    pooled = TensorTable(table.text, randn(4, 6)).rows([3, 1]).pooled
    assert pooled is not None
    assert torch.equal(pooled, randn(4, 6)[[3, 1]])


def test_prompts_that_are_cut_are_known(denoiser):
    """Exactly those of more than 75 tokens between start and end."""
    fits = "red " * 75
    denoiser.encode([*PROMPTS, fits])
    assert list(denoiser.truncated([*PROMPTS, fits])) == [PROMPTS[3]]
    assert not denoiser.truncated(["never encoded"])


@pytest.mark.parametrize("steps", [1, 5])
def test_guided_sampling_is_the_pipelines(pipeline, denoiser, steps):
    """Same latents after one step and after five, from the same noise."""
    pipeline.set_progress_bar_config(disable=True)
    noise = randn(1, 4, 8, 8)
    states: list[Tensor] = []

    def keep(pipeline: object, step: int, timestep: int, now: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(now["latents"])
        return now

    size = {"height": 64, "width": 64, "num_inference_steps": 5, "output_type": "latent"}
    pipeline(PROMPTS[0], latents=noise, guidance_scale=4.0, callback_on_step_end=keep, **size)
    table = denoiser.encode([PROMPTS[0], ""])
    walk = Walk(0, noise, torch.zeros(6), denoiser.sampler("ddim", 5, (4, 8, 8)).fresh(), seeded(0))
    for _ in range(steps):
        timestep = int(walk.timestep)
        conditional, unconditional = predict(denoiser, walk.model_input.expand(2, -1, -1, -1), timestep, table, [0, 1])
        walk.advance(guided(conditional[None], unconditional[None], 4.0))
    torch.testing.assert_close(walk.latents, states[steps - 1], rtol=1e-5, atol=1e-5)


def test_rows_do_not_mix(denoiser):
    """A batch of three walks at three timesteps is three calls."""
    latents, table = randn(3, 4, 8, 8), denoiser.encode(PROMPTS)
    timesteps = torch.tensor([900, 500, 10])
    with torch.no_grad():
        together = denoiser.predict(latents, timesteps, table.rows([0, 1, 2]), torch.zeros(3, 6))
    for row in range(3):
        alone = predict(denoiser, latents[row : row + 1], int(timesteps[row]), table, [row])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_low_precision_predicts_about_the_same(denoiser, dtype, expected):
    """From float32 latents, in the model's precision, close to float32."""
    low = load_model("builtin:tiny", dtype=dtype, device=CPU)
    assert {weight.dtype for weight in low.module.parameters()} == {expected}
    latents = randn(2, 4, 8, 8)
    exact = predict(denoiser, latents, 500, denoiser.encode(PROMPTS), [0, 1])
    rough = predict(low, latents, 500, low.encode(PROMPTS), [0, 1])
    assert rough.dtype == expected
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


def test_sizes_mean_nothing_to_it(denoiser):
    """And it says so."""
    assert denoiser.uses_size_conditioning is False
    table, latents = denoiser.encode([""]), randn(1, 4, 8, 8)
    with torch.no_grad():
        one, two = (
            denoiser.predict(latents, torch.tensor([500]), table.rows([0]), torch.full((1, 6), size))
            for size in (0.0, 512.0)
        )
    assert torch.equal(one, two)


def test_a_latent_is_eight_pixels(denoiser):
    """Height before width; what is no multiple of 8 is refused."""
    assert denoiser.latent_shape(512, 768) == (4, 64, 96)
    with pytest.raises(ModelError, match="500 x 512"):
        denoiser.latent_shape(500, 512)


@pytest.mark.parametrize("config", [{}, {"prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}])
def test_what_it_predicts_is_what_its_scheduler_says(config):
    """Epsilon where nothing is said; its sampler goes by the same word."""
    schedule = {key: value for key, value in SD_SCHEDULE.items() if key != "prediction_type"}
    denoiser = SmallDenoiser(small_unet(), {**schedule, **config})
    assert denoiser.prediction_type == config.get("prediction_type", "epsilon")
    expected = DDIMScheduler.from_config({**schedule, **config})
    expected.set_timesteps(5)
    latents, prediction = randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)
    ours = denoiser.sampler("ddim", 5, (4, 8, 8)).step(prediction, 0, latents, seeded(0))
    assert torch.equal(ours, expected.step(prediction, expected.timesteps[0], latents, return_dict=False)[0])


def test_the_snr_is_that_of_the_training_timestep(denoiser):
    """Falls with the noise, from about 1,175 to 0.0047."""
    snr = denoiser.snr(torch.tensor([0, 500, 999]))
    assert snr.tolist() == pytest.approx([1175, 0.38, 0.00468], rel=0.02)


def test_decoding_undoes_the_scaling(pipeline, denoiser):
    """The VAE is shown latents divided by 0.18215."""
    latents = randn(2, 4, 8, 8)
    with torch.no_grad():
        expected = pipeline.vae.decode(latents / 0.18215).sample
    pictures = denoiser.decode(latents)
    assert pictures.shape == (2, 3, 64, 64)
    torch.testing.assert_close(pictures, expected, rtol=1e-5, atol=1e-5)
    assert pictures.dtype == torch.float32


def test_the_model_is_frozen_and_in_place(denoiser):
    """No weight asks for a gradient; family and device are as they should be."""
    assert not any(weight.requires_grad for weight in denoiser.module.parameters())
    assert (denoiser.family, denoiser.device) == ("sd1", CPU)
