"""The little world: what is drawn, what is said of it, and what is read off again."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from leco_plugin.tiny.pictures import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    Attributes,
    all_attributes,
    caption,
    full_prompt,
    outline,
    picture,
    random_attributes,
)
from leco_plugin.tiny.reader import read

EVERY_WORD = {*SHAPES, *COLOURS, *SIZES, *BACKGROUNDS}


def solid(colour, size=64):
    return np.full((size, size, 3), colour, dtype=np.uint8)


def test_the_reader_finds_what_was_drawn_in_every_combination():
    """Colour, size, shape and background of at least 99 % of drawn pictures are read right, anywhere they fit."""
    rng = np.random.default_rng(7)
    wanted = all_attributes() * 2
    readings = [read(picture(attributes, rng, jitter=10.0)) for attributes in wanted]
    for name in ("colour", "size", "shape", "background"):
        right = [getattr(seen, name) == getattr(drawn, name) for seen, drawn in zip(readings, wanted, strict=True)]
        assert np.mean(right) >= 0.99, name


def test_there_are_270_combinations():
    """Five shapes, six colours, three sizes and three backgrounds, each combination once."""
    assert len(set(all_attributes())) == len(all_attributes()) == 5 * 6 * 3 * 3


def test_the_reader_measures_a_square_painted_by_hand():
    """A square of 20 x 20 pixels in pure green on black is 400 pixels of hue 120."""
    image = Image.new("RGB", (64, 64), "black")
    ImageDraw.Draw(image).rectangle((20, 22, 39, 41), fill=(0, 255, 0))
    seen = read(image)
    assert (seen.colour, seen.shape, seen.size, seen.background) == ("green", "square", "medium", "black")
    assert seen.area == pytest.approx(400)
    assert seen.hue == pytest.approx(120)


@pytest.mark.parametrize(("gray", "name"), [(255, "white"), (230, "white"), (134, "gray"), (20, "black"), (0, "black")])
def test_an_empty_picture_has_only_a_background(gray, name):
    """Where nothing is coloured, all but the background is none and the area is 0."""
    seen = read(solid(gray))
    assert (seen.colour, seen.hue, seen.size, seen.area, seen.shape) == ("none", None, "none", 0.0, "none")
    assert seen.background == name


def test_a_picture_filled_by_colour_has_neither_outline_nor_background():
    """All red: the colour and the whole area are read, shape and background are none."""
    seen = read(solid((255, 0, 0)))
    assert (seen.colour, seen.area, seen.shape, seen.background) == ("red", 4096.0, "none", "none")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [1, 2, 64])
def test_the_reader_makes_something_of_any_noise(seed, size):
    """Noise, even of one pixel, is read without an error and with an area within the picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    assert 0.0 <= read(noise).area <= size * size


@pytest.mark.parametrize("box", [(0, 0, 63, 20), (0, 0, 5, 63), (60, 60, 63, 63), (0, 31, 63, 32), (0, 0, 62, 63)])
def test_the_reader_takes_shapes_that_leave_the_picture(box):
    """Bars and corners at the edge are read without an error, their area to a pixel."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle(box, fill=(0, 0, 255))
    seen = read(image)
    painted = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
    assert seen.area == pytest.approx(painted)
    assert seen.colour == ("blue" if painted >= 25 else "none")


def test_a_square_at_the_edge_is_still_a_square():
    """What lies outside the picture counts as empty, not as more of the same."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle((0, 0, 19, 19), fill=(0, 0, 255))
    assert read(image).shape == "square"


def test_a_long_bar_is_none_of_the_shapes():
    """What fits no outline is called none, not the least wrong."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle((4, 30, 59, 34), fill=(255, 0, 0))
    assert read(image).shape == "none"


def test_opposite_colours_that_cancel_out_have_no_hue():
    """Half red, half cyan is coloured, but no colour."""
    pixels = solid((255, 0, 0))
    pixels[32:] = (0, 255, 255)
    assert (read(pixels).colour, read(pixels).hue) == ("none", None)


def test_the_reader_refuses_what_is_no_picture():
    """An array that is not uint8 RGB is refused by its type and shape."""
    with pytest.raises(ValueError, match=r"float64 \(64, 64, 3\)"):
        read(np.zeros((64, 64, 3)))


def test_the_same_seed_draws_the_same_picture():
    """Pictures and captions come from the generator alone, so one seed gives one world and another another."""

    def world(seed):
        rng = np.random.default_rng(seed)
        shown = [random_attributes(rng) for _ in range(20)]
        return [(picture(one, rng).tobytes(), caption(one, rng)) for one in shown]

    assert world(3) == world(3)
    assert world(3) != world(4)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_the_area_of_the_unit_circle_around_its_centroid(shape):
    """Equal size means equal area: a finely filled outline covers pi, balanced around 0."""
    grid = 400
    mask = Image.new("L", (grid, grid), 0)
    ImageDraw.Draw(mask).polygon([(100 * (x + 2), 100 * (y + 2)) for x, y in outline(shape).tolist()], fill=1)
    rows, columns = np.nonzero(np.asarray(mask))
    assert len(rows) / 100**2 == pytest.approx(np.pi, rel=0.02)
    assert rows.mean() / 100 - 2 == pytest.approx(0, abs=0.02)
    assert columns.mean() / 100 - 2 == pytest.approx(0, abs=0.02)


def test_captions_say_nothing_untrue():
    """Every attribute that a caption names is the picture's own, and each is named at times and left out at times."""
    rng = np.random.default_rng(0)
    named = dict.fromkeys(("shape", "colour", "size", "background"), 0)
    empty, count = 0, 3000
    for _ in range(count):
        shown = random_attributes(rng)
        said = caption(shown, rng)
        words = set(said.replace(",", "").split())
        true = {shown.shape, shown.colour, shown.size, shown.background}
        assert words & EVERY_WORD <= true, said
        empty += not said
        for name in named:
            named[name] += getattr(shown, name) in words
    assert 0.09 < empty / count < 0.15
    assert all(0.3 < hits / count < 0.9 for hits in named.values()), named


def test_the_full_prompt_names_everything():
    """The prompt that the measurements use reads like a caption."""
    assert full_prompt(Attributes("star", "red", "small", "white")) == "a small red star on a white background"


def test_finding_the_model_folder_loads_no_heavy_library():
    """``leco_plugin.tiny`` can be asked for its folder without torch, numpy or PIL."""
    code = (
        "import sys, leco_plugin.tiny as tiny; assert tiny.MODEL_FOLDER.is_dir();"
        "sys.exit(', '.join({'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
