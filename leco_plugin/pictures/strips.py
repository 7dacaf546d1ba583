"""Strips: prompts at several strengths of a LoRA side by side, the base model among them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from leco_plugin.atomic import write_atomically
from leco_plugin.config.sample import SampleConfig
from leco_plugin.contracts import Denoiser
from leco_plugin.errors import ModelError
from leco_plugin.pictures.painter import Painter, PictureSettings, Shot, strip

BASE = 0.0
"""The strength at which the model is exactly the base model."""
_SMALLEST = 128
"""Pictures that are lower than this are shown enlarged."""
_FORMATS: Mapping[str, tuple[str, dict[str, int]]] = {
    "png": ("PNG", {"optimize": 1}),
    "jpg": ("JPEG", {"quality": 92}),
    "webp": ("WEBP", {"quality": 92}),
}


@dataclass(frozen=True)
class Strip:
    """What is drawn on one sheet: a row for each seed, a column for each strength."""

    prompt: str
    seeds: tuple[int, ...]
    multipliers: tuple[float, ...]
    """In rising order, with the base model's 0."""
    settings: PictureSettings
    negative: str = ""

    @property
    def ticks(self) -> int:
        """Sampler steps of all pictures."""
        return len(self.seeds) * len(self.multipliers) * self.settings.steps


def with_base(multipliers: Iterable[float]) -> tuple[float, ...]:
    """The strengths in rising order, each once, and that of the base model."""
    return tuple(sorted({BASE, *multipliers}))


def prompts_of(strips: Iterable[Strip]) -> list[str]:
    """Every prompt that drawing ``strips`` needs."""
    return [prompt for one in strips for prompt in (one.prompt, one.negative)]


def plan_strips(sample: SampleConfig) -> list[Strip]:
    """The strips that a job asks for: prompts that differ in their multiplier alone are on one."""
    multipliers: dict[tuple[str, int, str, PictureSettings], list[float]] = {}
    said = [] if sample.network_multiplier is None else [sample.network_multiplier]
    default = [*sample.multipliers, *said] or [1.0]
    for number, asked in enumerate(sample.asked):
        seed = sample.seed + (number if sample.walk_seed else 0) if asked.seed is None else asked.seed
        settings = PictureSettings(
            height=asked.height or sample.height,
            width=asked.width or sample.width,
            steps=asked.sample_steps or sample.sample_steps,
            guidance_scale=sample.guidance_scale if asked.guidance_scale is None else asked.guidance_scale,
            sampler=sample.sampler,
            from_step=sample.from_step,
            # a run leaves no memory to spare
            batch=1,
        )
        key = (asked.prompt, seed, sample.neg if asked.neg is None else asked.neg, settings)
        own = default if asked.network_multiplier is None else [asked.network_multiplier]
        multipliers.setdefault(key, []).extend(own)
    return [
        Strip(prompt, (seed,), with_base(found), settings, negative)
        for (prompt, seed, negative, settings), found in multipliers.items()
    ]


def check_strips(denoiser: Denoiser, strips: Iterable[Strip]) -> None:
    """Raise ModelError for what the model cannot draw: at once, not when the first picture is due."""
    if not hasattr(denoiser, "decode"):
        raise ModelError(f"a model of the family {denoiser.family} draws no pictures here", fix="take sample out")
    for asked in strips:
        shape = denoiser.latent_shape(asked.settings.height, asked.settings.width)
        denoiser.sampler(asked.settings.sampler, asked.settings.steps, shape)


def draw_rows(painter: Painter, asked: Strip) -> list[tuple[Image.Image, ...]]:
    """The pictures of ``asked``: a row for each seed, a column for each strength."""
    painter = painter.using(asked.settings)
    shots = [Shot(asked.prompt, seed, asked.negative) for seed in asked.seeds]
    columns = [painter.draw(shots, multiplier) for multiplier in asked.multipliers]
    return list(zip(*columns, strict=True))


def draw_strip(painter: Painter, asked: Strip) -> Image.Image:
    """The sheet that ``asked`` describes; small pictures are enlarged."""
    labels = [label(multiplier) for multiplier in asked.multipliers]
    return strip(draw_rows(painter, asked), labels, zoom=-(-_SMALLEST // asked.settings.height))


def label(multiplier: float) -> str:
    """What stands above a column."""
    return "base" if multiplier == BASE else f"{multiplier:+g}"


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write ``picture`` in the format that the name of ``path`` ends on, atomically."""
    data = io.BytesIO()
    kind, options = _FORMATS[path.suffix.lstrip(".")]
    picture.save(data, kind, **options)
    write_atomically(path, data.getvalue())


def total_ticks(strips: Sequence[Strip]) -> int:
    """Sampler steps of all pictures of all strips."""
    return sum(one.ticks for one in strips)
