"""Pictures of what a LoRA does: drawn as diffusers draws them, at every strength from the same noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from models import CPU, randn, randomize
from PIL import Image

from leco_plugin.families.load import load_model
from leco_plugin.network.peft_lora import PeftLora
from leco_plugin.pictures.painter import Painter, PictureSettings, Shot, cut, strip
from leco_plugin.tiny import MODEL_FOLDER

SHOTS = [Shot("big red star", 1), Shot("small blue circle", 2), Shot("big red star", 3)]


def settings(**changes: object) -> PictureSettings:
    return PictureSettings(**{"height": 64, "width": 64, "steps": 4, "guidance_scale": 3.0, **changes})


@pytest.fixture(scope="module")
def parts():
    denoiser = load_model("builtin:tiny", dtype="fp32", device=CPU)
    network = PeftLora(denoiser.module, rank=2, alpha=2.0, seed=0)
    randomize(network.parameters(), std=0.3)
    return denoiser, network


def painter(parts, **changes: object) -> Painter:
    return Painter(*parts, [shot.prompt for shot in SHOTS], settings(**changes))


def pixels(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture).astype(int) for picture in pictures])


def test_at_strength_zero_it_draws_what_diffusers_draws(parts):
    """Pixel for pixel, up to rounding, from the same noise."""
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL_FOLDER, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.cat([randn(1, 4, 8, 8, seed=shot.seed) for shot in SHOTS])
    prompts = [shot.prompt for shot in SHOTS]
    size = {"height": 64, "width": 64, "num_inference_steps": 4, "guidance_scale": 3.0}
    expected = pipeline(prompts, latents=noise, **size).images
    drawn = painter(parts).draw(SHOTS, 0.0)
    assert np.abs(pixels(drawn) - pixels(expected)).max() <= 1


def test_a_picture_does_not_depend_on_its_neighbours(parts):
    """Nor on how many are drawn in one call."""
    together = painter(parts).draw(SHOTS, 1.0)
    for batch in (1, 2):
        assert np.abs(pixels(together) - pixels(painter(parts, batch=batch).draw(SHOTS, 1.0))).max() <= 1


def test_the_strength_changes_the_picture_and_the_noise_stays(parts):
    """Other at 1 and at -1, and the same again afterwards."""
    one = painter(parts)
    base, plus, minus, again = (pixels(one.draw(SHOTS[:1], strength)) for strength in (0.0, 1.0, -1.0, 0.0))
    assert np.array_equal(base, again)
    assert np.abs(base - plus).max() > 20
    assert np.abs(minus - plus).max() > 20


def test_the_seed_and_the_prompt_change_the_picture(parts):
    """Two of a prompt differ, and two of a seed."""
    first, second = painter(parts).draw([SHOTS[0], SHOTS[2]], 0.0)
    assert not np.array_equal(np.asarray(first), np.asarray(second))
    first, second = painter(parts).draw([Shot("big red star", 1), Shot("small blue circle", 1)], 0.0)
    assert not np.array_equal(np.asarray(first), np.asarray(second))


def test_pictures_have_the_size_asked_for(parts):
    """Width and height are not swapped."""
    (picture,) = painter(parts, width=128, steps=1).draw(SHOTS[:1], 0.0)
    assert (picture.size, picture.mode) == ((128, 64), "RGB")


def test_a_strip_is_a_table_with_labels():
    """Each picture in its row and column, enlarged without blur; above it there is writing."""
    colours = ["red", "lime", "blue", "black"]
    first, second, third, fourth = (Image.new("RGB", (8, 4), colour) for colour in colours)
    sheet = strip([[first, second], [third, fourth]], ["-1", "+1"], zoom=2)
    assert sheet.size == ((16 + 4) * 2 + 4, (8 + 4) * 2 + 22)
    centres = [sheet.getpixel((x, y)) for y in (22 + 4, 22 + 12 + 4) for x in (4 + 8, 4 + 20 + 8)]
    assert centres == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]
    head = np.asarray(sheet.crop((0, 0, sheet.width, 22)).convert("L"))
    assert head.min() < 100
    assert head.max() == 255


def test_a_strip_can_be_cut_up_again():
    """Pixel for pixel, whatever the number of rows and columns."""
    colours = [["red", "lime"], ["blue", "black"], ["white", "gray"]]
    rows = [[Image.new("RGB", (7, 5), colour) for colour in row] for row in colours]
    found = cut(strip(rows, ["a", "b"]), 3, 2)
    assert np.array_equal([pixels(row) for row in rows], [pixels(row) for row in found])


def test_the_lora_may_be_switched_on_after_some_steps(parts):
    """Never on: the base model's picture; late: another one than from the start, and nearer to the base model's."""
    base, full = (pixels(painter(parts).draw(SHOTS[:1], strength)) for strength in (0.0, 1.0))
    never, late = (pixels(painter(parts, from_step=step).draw(SHOTS[:1], 1.0)) for step in (4, 2))
    assert np.array_equal(never, base)
    assert 0 < np.abs(late - base).mean() < np.abs(full - base).mean()


def test_a_negative_prompt_is_what_guidance_goes_away_from(parts):
    """It changes the picture; at guidance 1 there is none, and the picture is the prompt's alone."""
    shot = Shot("star", 1, negative="red")
    one = Painter(*parts, ["star", "red"], settings())
    assert np.abs(pixels(one.draw([shot], 0.0)) - pixels(one.draw([Shot("star", 1)], 0.0))).max() > 20
    plain = one.using(settings(guidance_scale=1.0))
    assert np.array_equal(pixels(plain.draw([shot], 0.0)), pixels(plain.draw([Shot("star", 1)], 0.0)))


def test_every_sampler_step_is_counted(parts):
    """Pictures times steps, whatever the size of a batch."""
    ticks: list[int] = []
    one = Painter(*parts, [shot.prompt for shot in SHOTS], settings(batch=2), ticks.append)
    one.draw(SHOTS, 1.0)
    assert ticks == [2] * 4 + [1] * 4


def test_a_sampler_that_adds_noise_draws_each_picture_by_itself(parts):
    """So that a picture does not depend on its neighbours there, either."""
    one = painter(parts, sampler="euler_a")
    together, alone = one.draw(SHOTS, 0.0), one.draw(SHOTS[1:2], 0.0)
    assert np.array_equal(np.asarray(together[1]), np.asarray(alone[0]))


def test_a_picture_that_does_not_fit_into_memory_is_decoded_in_tiles(parts, monkeypatch):
    """One by one; small ones are one tile, and so the same. The VAE is off the device afterwards."""
    denoiser, _ = parts
    latents = randn(2, 4, 8, 8, seed=3)
    whole = denoiser.decode(latents)
    vae, tiled = denoiser._loaded_vae, []

    class Full(type(vae.decoder)):
        """Takes tiles alone."""

        def forward(self, sample: torch.Tensor, *rest: object) -> torch.Tensor:
            if not vae.use_tiling:
                raise torch.cuda.OutOfMemoryError("out of memory")
            tiled.append(tuple(sample.shape))
            return super().forward(sample, *rest)

    monkeypatch.setattr(vae.decoder, "__class__", Full)
    found = denoiser.decode(latents)
    vae.disable_tiling()
    vae.disable_slicing()
    assert tiled == [(1, 4, 8, 8)] * 2
    assert torch.allclose(found, whole, atol=1e-5)
    assert next(vae.parameters()).device.type == "cpu"


def test_strength_and_random_numbers_are_afterwards_what_they_were(parts):
    """Whatever strength was drawn at: a run that draws goes on as if it had not."""
    _, network = parts
    torch.manual_seed(11)
    state = torch.get_rng_state()
    with network.multiplier(0.25):
        before = [dict(layer.scaling) for layer in network._layers.values()]
        painter(parts, sampler="ddpm").draw(SHOTS[:1], 2.0)
        assert [dict(layer.scaling) for layer in network._layers.values()] == before
    assert torch.equal(torch.get_rng_state(), state)
