"""Every family against diffusers' own pipeline, and against a model whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import CPU, SD_SCHEDULE, SmallDenoiser, randn, seeded, small_unet
from small_models import model_folder
from torch import Tensor

from leco_plugin.config.schema import ModelConfig
from leco_plugin.core.walk import guided
from leco_plugin.errors import ModelError
from leco_plugin.families.load import load_model

SIDE = 64
KINDS = [("sd1", "epsilon"), ("sd2", "v_prediction"), ("sd2", "epsilon"), ("sdxl", "epsilon")]


def load(folder: Path, **model: Any) -> Any:
    return load_model(ModelConfig(name_or_path=str(folder), **model), dtype="fp32", device=CPU)


@pytest.mark.parametrize(("family", "prediction_type"), KINDS)
def test_a_guided_step_is_that_of_the_pipeline(family: str, prediction_type: str, tmp_path: Path):
    """On the same latents, one guided sampling step gives what diffusers' pipeline of the family gives."""
    folder, pipeline = model_folder(family, tmp_path, prediction_type=prediction_type)
    denoiser = load(folder)
    latents, steps = randn(1, 4, 8, 8), 5
    seen: list[Tensor] = []

    def keep(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tensors["latents"].clone())
        return tensors

    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        "a red square",
        negative_prompt="",
        height=SIDE,
        width=SIDE,
        latents=latents,
        num_inference_steps=steps,
        guidance_scale=3.0,
        output_type="latent",
        callback_on_step_end=keep,
    )
    sampler = denoiser.sampler("ddim", steps, (4, 8, 8))
    text = denoiser.encode(["a red square", ""]).rows([0, 1])
    sizes = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]] * 2).float()
    with torch.no_grad():
        rows = denoiser.predict(latents.expand(2, -1, -1, -1), sampler.timesteps[0].expand(2), text, sizes)
    ours = sampler.step(guided(rows[:1], rows[1:], 3.0), 0, latents, seeded(0))

    assert (denoiser.family, denoiser.prediction_type) == (family, prediction_type)
    torch.testing.assert_close(ours, seen[0], rtol=0, atol=1e-5)


def test_sizes_reach_the_model_of_sdxl_alone(tmp_path: Path):
    """Other sizes and another pooled text change SDXL's prediction; Stable Diffusion 1 has no use for sizes."""
    for family, changes in (("sdxl", True), ("sd1", False)):
        denoiser = load(model_folder(family, tmp_path / family)[0])
        text = denoiser.encode(["red"]).rows([0])
        sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]])
        with torch.no_grad():
            one = denoiser.predict(randn(1, 4, 8, 8), torch.tensor([500]), text, sizes)
            other = denoiser.predict(randn(1, 4, 8, 8), torch.tensor([500]), text, sizes + 512)
        assert denoiser.uses_size_conditioning is changes
        assert torch.equal(one, other) is not changes


class PerfectModel(SmallDenoiser):
    """Knows that the data is normal, with variance 1: what it is shown tells it all there is to know."""

    def predict(self, latents: Tensor, timesteps: Tensor, text: Any, sizes: Tensor) -> Tensor:
        # x_t = alpha x_0 + sigma e; given x_t, e is sigma x_t on average and v = alpha e - sigma x_0 is nothing
        if self.prediction_type == "v_prediction":
            return torch.zeros_like(latents)
        sigma = (1 - self._alphas_cumprod[timesteps.long()]).sqrt()
        return sigma[:, None, None, None] * latents


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "v_prediction from zero SNR"])
@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "euler_a", "dpmsolver++"])
def test_the_walk_of_a_perfect_model_keeps_the_variance(name: str, kind: str):
    """Walked with the perfect model's predictions, unit noise ends as data of unit variance."""
    prediction_type, _, zero = kind.partition(" from ")
    schedule = {**SD_SCHEDULE, "prediction_type": prediction_type}
    if zero:
        schedule |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    denoiser = PerfectModel(small_unet(), schedule)
    steps = 20
    sampler = denoiser.sampler(name, steps, (4, 8, 8))
    generator = seeded(1)
    latents = randn(4, 4, 32, 32) * sampler.init_noise_sigma
    for index in range(steps):
        shown = sampler.model_input(latents, index)
        timesteps = sampler.timesteps[index].expand(4)
        latents = sampler.step(denoiser.predict(shown, timesteps, None, None), index, latents, generator)
        assert torch.isfinite(latents).all()
    # those that draw noise anew take the most likely picture for the true one, and lose what it may vary by
    assert (0.7 if name in ("ddpm", "euler_a") else 0.9) < latents.std() < 1.1


def test_a_model_is_walked_as_it_predicts(tmp_path: Path):
    """The scheduler config says what a model predicts, is_v_pred overrules it, and SNR weights follow the schedule."""
    folder, _ = model_folder("sd2", tmp_path, prediction_type="v_prediction")

    assert load(folder).prediction_type == "v_prediction"
    assert load(folder, is_v_pred=False).prediction_type == "epsilon"
    zero = load(folder, zero_terminal_snr=True)
    assert zero.snr(torch.tensor([999])).item() == 0
    assert zero.sampler("ddim", 10, (4, 8, 8)).timesteps[0] == 999
    assert 0 < load(folder).snr(torch.tensor([999])).item() < 0.01


def test_zero_terminal_snr_needs_a_v_model(tmp_path: Path):
    """An epsilon model cannot start from noise without signal, and the error says what to do."""
    folder, _ = model_folder("sd1", tmp_path)

    with pytest.raises(ModelError, match="v-prediction"):
        load(folder, zero_terminal_snr=True)
    assert load(folder, zero_terminal_snr=True, is_v_pred=True).prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("family", "flag", "said"),
    [
        ("sd1", {"is_v2": True}, "a Stable Diffusion 1.x model"),
        ("sd1", {"is_xl": True}, "a Stable Diffusion 1.x model"),
        ("sd2", {"is_v2": False}, "a Stable Diffusion 2.x model"),
        ("sdxl", {"is_v2": True}, "an SDXL model"),
    ],
)
def test_a_flag_that_contradicts_the_model_is_refused(family: str, flag: Any, said: str, tmp_path: Path):
    """is_v2 and is_xl only confirm what a model is; where they are wrong, the error says what it is."""
    folder, _ = model_folder(family, tmp_path)

    with pytest.raises(ModelError, match=said):
        load(folder, **flag)


def test_a_flag_that_is_right_changes_nothing(tmp_path: Path):
    """A confirmed family loads as it does without the flag."""
    folder, _ = model_folder("sdxl", tmp_path)

    assert load(folder, is_xl=True, is_v2=False).family == load(folder).family == "sdxl"
