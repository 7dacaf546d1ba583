"""Read off a picture of the little world what it shows: a fixed rule, so that tests and reports can count.

Made for pictures of one flat shape on gray; noise and mixtures read as something, but never raise.
"""

import colorsys
import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from leco_plugin.tiny.pictures import HUES, RADII, SHAPES, SIZES, Floats, Pixels, coverage

NONE: Final = "none"
LEAST_CHROMA: Final = 0.35
"""Largest minus smallest channel, 0 to 1, from which a pixel counts as coloured."""
LEAST_AREA: Final = 25.0
"""Coloured area in pixels below which nothing is there; the smallest shape has 113."""
LARGEST_MISFIT: Final = 0.25
"""Relative distance between outlines from which a shape is none of the known ones."""

_DIRECTIONS = 72
_STEP = 0.25


@dataclass(frozen=True)
class Reading:
    """What a picture shows; "none" where nothing is there or nothing fits."""

    colour: str
    hue: float | None
    """Hue of the coloured part in degrees, 0 to 360; None where nothing is coloured."""
    size: str
    area: float
    """Coloured area in pixels, partly covered ones counting in part."""
    shape: str
    background: str


def read(image: Image.Image | Pixels) -> Reading:
    """Read ``image``: any PIL image, or uint8 (h, w, 3) in RGB. Sizes are meant for 64 x 64."""
    pixels = _pixels(image)
    cover = _cover(pixels)
    area = float(cover.sum())
    background = _background(pixels, cover)
    if area < LEAST_AREA:
        return Reading(NONE, None, NONE, area, NONE, background)
    hue = _hue(pixels, cover)
    shape = NONE if background == NONE else _shape(cover)
    return Reading(_colour(hue), hue, _size(area), area, shape, background)


def _pixels(image: Image.Image | Pixels) -> Floats:
    """The image as float64 (h, w, 3), 0 to 1."""
    array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"read() needs uint8 (h, w, 3), not {array.dtype} {array.shape}")
    pixels: Floats = array.astype(np.float64) / 255.0
    return pixels


def _cover(pixels: Floats) -> Floats:
    """How much of each pixel is coloured, 0 to 1: (h, w).

    On a gray background chroma grows evenly with coverage, so edges are known to a part of a pixel.
    """
    chroma = pixels.max(axis=2) - pixels.min(axis=2)
    coloured = chroma[chroma > LEAST_CHROMA]
    if coloured.size == 0:
        return np.zeros_like(chroma)
    share = chroma / float(np.quantile(coloured, 0.7))
    # cut on both sides alike: a faint halo counts as nothing, an uneven filling as full
    cover: Floats = np.clip((share - 0.2) / 0.6, 0.0, 1.0)
    return cover


def _background(pixels: Floats, cover: Floats) -> str:
    """Name the gray level of what is not coloured; "none" where the colour fills everything."""
    bare = pixels[cover == 0.0]
    if bare.size == 0:
        return NONE
    level = float(np.median(bare.mean(axis=1)))
    # halfway between the ranges that pictures.GRAYS gives
    return "white" if level > 0.75 else "gray" if level > 0.275 else "black"


def _hue(pixels: Floats, cover: Floats) -> float | None:
    """Hue of the mean colour of the fully covered pixels, in degrees."""
    inside = pixels[cover >= min(1.0, float(cover.max()))].mean(axis=0)
    hue, saturation, value = colorsys.rgb_to_hsv(*inside.tolist())
    # colours of all kinds may cancel out to gray
    return hue * 360.0 if saturation * value > 0.1 else None


def _colour(hue: float | None) -> str:
    if hue is None:
        return NONE
    return min(HUES, key=lambda colour: abs((hue - HUES[colour] + 180.0) % 360.0 - 180.0))


def _size(area: float) -> str:
    radius = math.sqrt(area / math.pi)
    for size, following in itertools.pairwise(SIZES):
        if radius < (RADII[size][1] + RADII[following][0]) / 2:
            return size
    return SIZES[-1]


def _shape(cover: Floats) -> str:
    """The shape whose outline is nearest, seen from the centroid."""
    seen = _outline_lengths(cover)
    misfits = {shape: float(np.sqrt(np.mean((seen - _known_lengths(shape)) ** 2))) for shape in SHAPES}
    nearest = min(misfits, key=lambda shape: misfits[shape])
    return nearest if misfits[nearest] < LARGEST_MISFIT else NONE


@cache
def _known_lengths(shape: str) -> Floats:
    return _outline_lengths(coverage(shape, 16.0, (32.0, 32.0)))


def _outline_lengths(cover: Floats) -> Floats:
    """How far the covered part reaches from its centroid in each direction: (72,), 1 for a circle's radius."""
    height, width = cover.shape
    area = cover.sum()
    rows, columns = np.mgrid[0:height, 0:width]
    y, x = float((rows * cover).sum() / area), float((columns * cover).sum() / area)
    angles = np.arange(_DIRECTIONS) * 2.0 * np.pi / _DIRECTIONS
    distances = (np.arange(math.hypot(height, width) / _STEP) + 0.5) * _STEP
    along_y = y + np.sin(angles)[:, None] * distances
    along_x = x + np.cos(angles)[:, None] * distances
    # summed along a ray, part coverage gives the length to a part of a pixel
    lengths: Floats = _between(cover, along_y, along_x).sum(axis=1) * _STEP
    return lengths / math.sqrt(area / math.pi)


def _between(values: Floats, y: Floats, x: Floats) -> Floats:
    """``values`` (h, w) at real-valued places, interpolated bilinearly; 0 outside."""
    padded = np.pad(values, 1)
    y = np.clip(y + 1.0, 0.0, padded.shape[0] - 1.001)
    x = np.clip(x + 1.0, 0.0, padded.shape[1] - 1.001)
    top: npt.NDArray[np.int64] = y.astype(np.int64)
    left: npt.NDArray[np.int64] = x.astype(np.int64)
    down, right = y - top, x - left
    upper = padded[top, left] * (1.0 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1.0 - right) + padded[top + 1, left + 1] * right
    between: Floats = upper * (1.0 - down) + lower * down
    return between
