"""The little world of the tiny model: pictures of one flat shape, and captions that are true of them."""

import colorsys
import itertools
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

SIDE: Final = 64
"""Width and height of a picture in pixels."""
SHAPES: Final = ("circle", "square", "triangle", "star", "cross")
HUES: Final = {"red": 0.0, "orange": 30.0, "yellow": 56.0, "green": 125.0, "blue": 225.0, "purple": 285.0}
"""Middle hue of each colour in degrees; a picture strays up to ``HUE_SPREAD`` from it."""
HUE_SPREAD: Final = 6.0
RADII: Final = {"small": (6.0, 9.2), "medium": (9.8, 14.2), "big": (14.8, 20.0)}
"""Radius in pixels of the circle that has the shape's area."""
GRAYS: Final = {"white": (0.90, 1.0), "gray": (0.45, 0.60), "black": (0.0, 0.10)}
"""Gray level of the background, 0 to 1."""
COLOURS: Final = tuple(HUES)
SIZES: Final = tuple(RADII)
BACKGROUNDS: Final = tuple(GRAYS)

_MARGIN = 1.5
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Attributes:
    """What a picture shows: one of SHAPES, COLOURS, SIZES and BACKGROUNDS each."""

    shape: str
    colour: str
    size: str
    background: str


def all_attributes() -> list[Attributes]:
    """Every combination once, in a fixed order (270 of them)."""
    return [Attributes(*values) for values in itertools.product(SHAPES, COLOURS, SIZES, BACKGROUNDS)]


def random_attributes(rng: np.random.Generator) -> Attributes:
    """One combination, all equally likely."""
    shape, colour, size, background = (
        values[int(rng.integers(len(values)))] for values in (SHAPES, COLOURS, SIZES, BACKGROUNDS)
    )
    return Attributes(shape, colour, size, background)


def picture(attributes: Attributes, rng: np.random.Generator, jitter: float = 4.0) -> Pixels:
    """Draw ``attributes``: uint8 (64, 64, 3), RGB.

    Exact radius, hue, saturation, brightness and gray level come from ``rng``, each within its class.
    ``jitter`` is how far in pixels the centre may leave the middle, where the shape still fits.
    """
    radius = rng.uniform(*RADII[attributes.size])
    hue = (HUES[attributes.colour] + rng.uniform(-HUE_SPREAD, HUE_SPREAD)) % 360.0
    colour = np.array(colorsys.hsv_to_rgb(hue / 360.0, rng.uniform(0.85, 1.0), rng.uniform(0.8, 1.0)))
    gray = rng.uniform(*GRAYS[attributes.background])
    centre = _centre(attributes.shape, radius, rng, jitter)
    share = coverage(attributes.shape, radius, centre)[..., None]
    pixels: Pixels = np.rint((share * colour + (1.0 - share) * gray) * 255.0).astype(np.uint8)
    return pixels


def coverage(shape: str, radius: float, centre: tuple[float, float], side: int = SIDE) -> Floats:
    """Share of each pixel that the shape covers: float64 (side, side), 0 to 1.

    ``radius`` is that of the circle of equal area; ``centre`` is (x, y) of the centroid, both in pixels.
    """
    mask = Image.new("L", (side * _SUPERSAMPLING, side * _SUPERSAMPLING), 0)
    # Pillow paints pixel centres, so the corner of the first sub-pixel lies at -0.5
    points = (outline(shape) * radius + np.array(centre)) * _SUPERSAMPLING - 0.5
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in points.tolist()], fill=255)
    small = mask.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64) / 255.0


@cache
def outline(shape: str) -> Floats:
    """Corners (n, 2) of the upright shape as (x, y), y downwards: centroid at 0, area pi like the unit circle."""
    corners = _corners(shape)
    following = np.roll(corners, -1, axis=0)
    cross = corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]
    area = cross.sum() / 2.0
    centroid = ((corners + following) * cross[:, None]).sum(axis=0) / (6.0 * area)
    unit: Floats = (corners - centroid) * np.sqrt(np.pi / abs(area))
    unit.setflags(write=False)
    return unit


def caption(attributes: Attributes, rng: np.random.Generator) -> str:
    """A caption that names some of the attributes and nothing untrue; empty in about one case of eight.

    Partial on purpose: "" becomes a real unconditional, and a prompt may leave anything open.
    """
    if rng.random() < 0.12:
        return ""
    size = attributes.size if rng.random() < 0.6 else ""
    colour = attributes.colour if rng.random() < 0.8 else ""
    background = f"{attributes.background} background" if rng.random() < 0.45 else ""
    kind = rng.random()
    noun = attributes.shape if kind < 0.88 else "shape" if kind < 0.96 else ""
    subject = " ".join(word for word in (size, colour, noun) if word)
    if not subject and not background:
        return ("a shape", "shape", "a picture", "a picture of a shape")[int(rng.integers(4))]
    if not noun:
        return ", ".join(part for part in (subject, background) if part)
    subject = _with_article(subject, rng)
    if not background:
        return subject
    return f"{subject} on a {background}" if rng.random() < 0.8 else f"{subject}, {background}"


def full_prompt(attributes: Attributes) -> str:
    """The prompt that names everything, such as "a small red star on a white background"."""
    return f"a {attributes.size} {attributes.colour} {attributes.shape} on a {attributes.background} background"


def _with_article(subject: str, rng: np.random.Generator) -> str:
    article = "an" if subject[0] in "aeiou" else "a"
    forms = (f"{article} {subject}", f"a picture of {article} {subject}", f"the {subject}", subject)
    return forms[int(rng.choice(4, p=(0.7, 0.1, 0.07, 0.13)))]


def _centre(shape: str, radius: float, rng: np.random.Generator, jitter: float) -> tuple[float, float]:
    """Centroid (x, y) near the middle that keeps the whole shape inside the picture."""
    corners = outline(shape) * radius
    low = np.maximum(_MARGIN - corners.min(axis=0), SIDE / 2 - jitter)
    high = np.minimum(SIDE - _MARGIN - corners.max(axis=0), SIDE / 2 + jitter)
    x, y = low + (high - low) * np.where(high > low, rng.random(2), 0.5)
    return float(x), float(y)


def _corners(shape: str) -> Floats:
    """Corners of the shape in any scale."""
    if shape == "square":
        return np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    if shape == "cross":
        a = 0.38
        quarter = np.array([(a, -1.0), (a, -a), (1.0, -a)])
        turn = np.array([(0.0, 1.0), (-1.0, 0.0)])
        return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])
    if shape == "star":
        return _spokes(10, inner=0.48)
    return _spokes({"triangle": 3, "circle": 64}[shape])


def _spokes(count: int, inner: float = 1.0) -> Floats:
    """Points around the origin, the first at the top; every second at the ``inner`` radius."""
    angles = np.arange(count) * 2.0 * np.pi / count - np.pi / 2
    lengths = np.where(np.arange(count) % 2 == 0, 1.0, inner)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None]
