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
from leco_plugin.preview.pictures import Painter, PictureSettings, Shot, strip
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
