"""What a LoRA does to pictures of the built-in model, counted by its reader."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean

import torch
from PIL import Image

from leco_plugin.families.load import load_model
from leco_plugin.network.loaded import LoadedLora
from leco_plugin.network.lora_read import LoraFile
from leco_plugin.pictures.painter import Painter, PictureSettings, Shot
from leco_plugin.tiny.pictures import BACKGROUNDS, HUES, SHAPES, SIZES
from leco_plugin.tiny.reader import Reading, read

SETTINGS = PictureSettings(height=64, width=64, steps=20, guidance_scale=4.0)


@dataclass(frozen=True)
class Asked:
    """A picture of the test: what it is asked to show, and the noise that it starts from."""

    prompt: str
    colour: str
    shape: str
    seed: int

    @property
    def shot(self) -> Shot:
        """What the painter needs of it."""
        return Shot(self.prompt, self.seed)


@dataclass(frozen=True)
class Figures:
    """What the reader found in several pictures."""

    pictures: int
    colour_right: float
    """Fraction of pictures in the colour that was asked for."""
    shape_right: float
    mean_area: float
    """Pixels of the shape, mean over the pictures."""
    hue: float | None
    """Mean direction on the colour circle in degrees; None where nothing is coloured."""


def slider_test(seed: int) -> list[Asked]:
    """Every colour in every shape, without a word about size."""
    asked = [(f"a {colour} {shape}", colour, shape) for colour, shape in product(HUES, SHAPES)]
    return _with_seeds(asked, seed)


def erase_test(seed: int) -> list[Asked]:
    """Every colour in every shape and size, on backgrounds in turn, twice; longer prompts than those trained on."""
    asked = []
    backgrounds = list(BACKGROUNDS)
    for number, (colour, shape, size) in enumerate(product(HUES, SHAPES, SIZES)):
        background = backgrounds[(number + number // len(backgrounds)) % len(backgrounds)]
        asked.append((f"a {size} {colour} {shape} on a {background} background", colour, shape))
    return _with_seeds(asked * 2, seed)


class Studio:
    """A built-in model with a LoRA file on it, as a user would load it."""

    def __init__(self, model: str, lora: Path, prompts: Sequence[str]) -> None:
        denoiser = load_model(model, dtype="fp32", device=torch.device("cpu"))
        network = LoadedLora(denoiser.module, LoraFile.read(lora))
        self._painter = Painter(denoiser, network, prompts, SETTINGS)

    def pictures(self, asked: Sequence[Asked], strength: float) -> list[Image.Image]:
        """One picture for each of ``asked`` with the LoRA at ``strength``."""
        return self._painter.draw([one.shot for one in asked], strength)


def figures(asked: Sequence[Asked], readings: Sequence[Reading]) -> Figures:
    """Sum up ``readings`` of the pictures that ``asked`` names."""
    pairs = list(zip(asked, readings, strict=True))
    hues = [cmath.rect(1, math.radians(reading.hue)) for reading in readings if reading.hue is not None]
    return Figures(
        pictures=len(pairs),
        colour_right=fmean(reading.colour == one.colour for one, reading in pairs),
        shape_right=fmean(reading.shape == one.shape for one, reading in pairs),
        mean_area=fmean(reading.area for reading in readings),
        hue=round(math.degrees(cmath.phase(sum(hues))) % 360, 1) if hues else None,
    )


def read_all(pictures: Sequence[Image.Image]) -> list[Reading]:
    """The reader's view of every picture."""
    return [read(picture) for picture in pictures]


def _with_seeds(asked: Sequence[tuple[str, str, str]], seed: int) -> list[Asked]:
    """Seeds that follow from ``seed``, one for each picture."""
    drawn = torch.randint(0, 2**31, (len(asked),), generator=torch.Generator().manual_seed(seed)).tolist()
    return [Asked(*one, noise) for one, noise in zip(asked, drawn, strict=True)]
