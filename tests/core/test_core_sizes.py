"""Sizes of pictures: buckets of a dynamic resolution, and SDXL's size conditioning."""

from __future__ import annotations

import pytest
from models import seeded

from leco_plugin.core.sizes import draw_resolution, size_conditioning


@pytest.mark.parametrize(
    ("whole", "sides"),
    [(512, [256, 320, 384, 448, 512]), (1024, list(range(512, 1025, 64))), (128, [64, 128]), (64, [64])],
)
def test_a_dynamic_square_takes_every_bucket(whole, sides):
    """Each side by itself: multiples of 64 from half of it to all of it, and every one of them comes."""
    generator = seeded(0)
    drawn = [draw_resolution((whole, whole), True, generator) for _ in range(1000)]
    assert sorted({height for height, _ in drawn}) == sides
    assert sorted({width for _, width in drawn}) == sides
    assert len(set(drawn)) == len(sides) ** 2


def test_buckets_are_equally_likely():
    """Of 5,000 draws a fifth for each of five sides, give or take five standard deviations."""
    generator = seeded(1)
    heights = [draw_resolution((512, 512), True, generator)[0] for _ in range(5000)]
    deviation = (5000 * 0.2 * 0.8) ** 0.5
    assert all(abs(heights.count(side) - 1000) < 5 * deviation for side in (256, 320, 384, 448, 512))


@pytest.mark.parametrize("resolution", [(512, 768), (768, 512), (56, 56)])
def test_rectangles_and_very_small_squares_stay(resolution):
    """Only a square of at least 64 pixels has buckets."""
    assert draw_resolution(resolution, True, seeded(0)) == resolution


def test_without_dynamic_resolution_nothing_is_drawn():
    """The generator is as it was."""
    generator = seeded(0)
    before = generator.get_state()
    assert draw_resolution((512, 512), False, generator) == (512, 512)
    assert (generator.get_state() == before).all()


def test_without_crops_the_picture_is_the_whole_original():
    """Height before width, no offset."""
    assert size_conditioning((512, 768), False, seeded(0)).tolist() == [512, 768, 0, 0, 512, 768]


def test_crops_lie_within_an_original_of_up_to_three_times_the_size():
    """Every crop fits, both sides grow by one factor, and the whole range of factors and places comes."""
    generator, scales, offsets = seeded(0), [], []
    for _ in range(500):
        height, width, top, left, own_height, own_width = size_conditioning((512, 768), True, generator).tolist()
        assert (own_height, own_width) == (512, 768)
        assert 0 <= top <= height - 512
        assert 0 <= left <= width - 768
        assert width / 768 == pytest.approx(height / 512, abs=2 / 512)
        scales.append(height / 512)
        offsets += [top / max(height - 512, 1), left / max(width - 768, 1)]
    assert min(scales) >= 1
    assert max(scales) <= 3
    assert (min(scales) < 1.1, max(scales) > 2.9) == (True, True)
    assert (min(offsets) < 0.1, max(offsets) > 0.9) == (True, True)
