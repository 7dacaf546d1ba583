"""Samplers are diffusers' own, with the model's noise schedule."""

from __future__ import annotations

import diffusers
import pytest
import torch
from models import CPU, SD_SCHEDULE, randn, seeded

from leco_plugin.errors import ModelError
from leco_plugin.families.samplers import cumulative_alphas, make_sampler, shifted_sigmas

CLASSES = {
    "ddim": diffusers.DDIMScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_a": diffusers.EulerAncestralDiscreteScheduler,
    "dpmsolver++": diffusers.DPMSolverMultistepScheduler,
}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_sampler_walks_as_its_scheduler_does(name, prediction_type):
    """All steps, from the first noise on: same timesteps, same inputs for the model, same latents."""
    config = {**SD_SCHEDULE, "prediction_type": prediction_type}
    scheduler = CLASSES[name].from_config(config)
    scheduler.set_timesteps(7)
    sampler = make_sampler(name, config, 7, CPU).fresh()
    assert torch.equal(sampler.timesteps, scheduler.timesteps)
    assert sampler.init_noise_sigma == pytest.approx(float(scheduler.init_noise_sigma))
    ours = theirs = randn(2, 4, 4, 4) * sampler.init_noise_sigma
    our_noise, their_noise = seeded(1), seeded(1)
    for index, timestep in enumerate(scheduler.timesteps):
        shown = sampler.model_input(ours, index)
        assert torch.equal(shown, scheduler.scale_model_input(theirs, timestep))
        prediction = 0.3 * shown + 0.1
        ours = sampler.step(prediction, index, ours, our_noise)
        theirs = scheduler.step(prediction, timestep, theirs, generator=their_noise, return_dict=False)[0]
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", CLASSES)
def test_a_perfect_model_leads_from_noise_to_the_picture(name):
    """A model that always sees picture 0.5 in the noise: v- and epsilon-models alike end there."""
    alphas = cumulative_alphas(SD_SCHEDULE)
    for prediction_type in ("epsilon", "v_prediction"):
        sampler = make_sampler(name, {**SD_SCHEDULE, "prediction_type": prediction_type}, 30, CPU).fresh()
        latents, generator = randn(1, 4, 8, 8) * sampler.init_noise_sigma, seeded(1)
        for index in range(30):
            kept = alphas[int(sampler.timesteps[index])]
            noise = (sampler.model_input(latents, index) - kept**0.5 * 0.5) / (1 - kept) ** 0.5
            velocity = kept**0.5 * noise - (1 - kept) ** 0.5 * 0.5
            prediction = noise if prediction_type == "epsilon" else velocity
            latents = sampler.step(prediction, index, latents, generator)
        assert latents.mean().item() == pytest.approx(0.5, abs=0.05)
        assert latents.std().item() < 0.1


def test_ddim_takes_sds_own_timesteps():
    """Ten steps of 100 with the offset of 1: from 901 down to 1."""
    assert make_sampler("ddim", SD_SCHEDULE, 10, CPU).timesteps.tolist() == list(range(901, 0, -100))


@pytest.mark.parametrize("name", CLASSES)
def test_timesteps_go_down_from_noise_to_picture(name):
    """As many as asked for, all different, the noisiest first."""
    timesteps = make_sampler(name, SD_SCHEDULE, 40, CPU).timesteps
    assert len(timesteps) == 40
    assert bool((timesteps.diff() < 0).all())
    assert timesteps[0] > 900


def test_an_unknown_name_is_refused():
    """With the names that there are."""
    with pytest.raises(ModelError, match="no sampler is called 'heun'") as caught:
        make_sampler("heun", SD_SCHEDULE, 10, CPU)
    assert all(name in caught.value.problems[0].fix for name in CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_more_steps_than_the_schedule_has_are_refused(name):
    """A model of 50 timesteps cannot be walked in 80 different ones."""
    with pytest.raises(ModelError, match="80"):
        make_sampler(name, {**SD_SCHEDULE, "num_train_timesteps": 50}, 80, CPU)


def test_a_timestep_beyond_the_training_is_refused():
    """SD's offset of 1 would make a thousandth step start at timestep 1000, and there are 0..999."""
    assert make_sampler("ddim", SD_SCHEDULE, 999, CPU).timesteps[0] == 999
    with pytest.raises(ModelError, match="1000"):
        make_sampler("ddim", SD_SCHEDULE, 1000, CPU)


def test_cumulative_alphas_are_sds():
    """The first and last noise levels are well known."""
    alphas = cumulative_alphas(SD_SCHEDULE)
    assert alphas.dtype == torch.float32
    assert [alphas[0].item(), alphas[999].item()] == pytest.approx([0.99915, 0.00466], abs=1e-5)


def test_a_flow_s_shift_is_what_its_config_says():
    """Also where another class has noted it as a default: diffusers then takes its own default for it."""

    class Vague(diffusers.FlowMatchEulerDiscreteScheduler):
        def __init__(self, *values, **options):
            super().__init__(*values, **options)

    config = Vague.from_config({"shift": 3.0}).config
    assert "shift" in config["_use_default_values"]
    torch.testing.assert_close(shifted_sigmas(config, 4), torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]))
