"""Pictures from a model at a strength of its LoRA."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leco_plugin.contracts import Denoiser, Network, TextTable
from leco_plugin.core.objective import precise

PIXELS_TOGETHER = 2**20
"""Pixels of the pictures in one model call: four of 512 x 512, one of 1024 x 1024."""
_GAP, _HEAD = 4, 22


class Decoder(Protocol):
    """A model whose latents can be made pictures of."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in -1..1 of ``latents`` (B, C, h, w)."""


@dataclass(frozen=True)
class PictureSettings:
    """How pictures are drawn."""

    height: int = 512
    width: int = 512
    steps: int = 20
    guidance_scale: float = 7.0
    sampler: str = "ddim"
    from_step: int = 0
    """Sampler steps before the LoRA is switched on; a few keep the composition of the base model."""
    batch: int = 32
    """Most pictures in one model call, of twice as many rows with guidance."""

    @property
    def together(self) -> int:
        """Pictures in one model call: fewer large ones, and one where the noise of the steps must be its own."""
        if self.sampler in ("ddpm", "euler_a"):
            return 1
        return max(1, min(self.batch, PIXELS_TOGETHER // (self.height * self.width)))


@dataclass(frozen=True)
class Shot:
    """One picture: prompts and seed."""

    prompt: str
    seed: int
    negative: str = ""


class Painter:
    """Draws pictures with the model that a LoRA is attached to; every prompt is encoded once.

    ``prompts`` are those of all shots, negative ones too; the empty one is always there. ``tick`` is called with the
    number of pictures that a sampler step has brought on.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        network: Network,
        prompts: Sequence[str],
        settings: PictureSettings,
        tick: Callable[[int], None] | None = None,
    ) -> None:
        self._denoiser, self._network, self._settings, self._tick = denoiser, network, settings, tick
        distinct = list(dict.fromkeys(["", *prompts]))
        self._number = {prompt: index for index, prompt in enumerate(distinct)}
        self._table: TextTable = denoiser.encode(distinct)

    def using(self, settings: PictureSettings) -> Painter:
        """The same painter with other settings; nothing is encoded again."""
        other = copy.copy(self)
        other._settings = settings
        return other

    def draw(self, shots: Sequence[Shot], strength: float) -> list[Image.Image]:
        """One picture a shot with the LoRA at ``strength``; a seed gives the same noise at every strength."""
        size = self._settings.together
        chunks = [shots[start : start + size] for start in range(0, len(shots), size)]
        # a generator of one's own is not enough: parts of a model that are loaded meanwhile draw from torch's
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            latents = [self._denoise(chunk, strength) for chunk in chunks]
            pictures = torch.cat([cast(Decoder, self._denoiser).decode(chunk).cpu() for chunk in latents])
        return [_picture(tensor) for tensor in pictures]

    def _denoise(self, shots: Sequence[Shot], strength: float) -> Tensor:
        settings, count = self._settings, len(shots)
        shape = self._denoiser.latent_shape(settings.height, settings.width)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(shot.seed)) for shot in shots]
        sampler = self._denoiser.sampler(settings.sampler, settings.steps, shape)
        generator = torch.Generator().manual_seed(shots[0].seed)
        latents = torch.stack(noise).to(self._denoiser.device) * sampler.init_noise_sigma
        for index in range(settings.steps):
            with self._network.multiplier(strength if index >= settings.from_step else 0.0):
                prediction = self._predict(shots, sampler.model_input(latents, index), sampler.timesteps[index])
            latents = sampler.step(prediction, index, latents, generator)
            if self._tick:
                self._tick(count)
        return latents

    def _predict(self, shots: Sequence[Shot], latents: Tensor, timestep: Tensor) -> Tensor:
        """Guided prediction (B, C, h, w); without guidance, the negative prompts are not asked for."""
        settings = self._settings
        texts = [shot.prompt for shot in shots]
        if settings.guidance_scale != 1.0:
            texts += [shot.negative for shot in shots]
        rows = len(texts)
        size = [settings.height, settings.width, 0, 0, settings.height, settings.width]
        sizes = torch.tensor([size]).float().to(latents.device).expand(rows, -1)
        text = self._table.rows([self._number[prompt] for prompt in texts])
        predicted = self._denoiser.predict(
            torch.cat([latents] * (rows // len(shots))), timestep.expand(rows), text, sizes
        )
        if rows == len(shots):
            return precise(predicted)
        conditional, unconditional = predicted.chunk(2)
        return self._denoiser.guide(conditional, unconditional, settings.guidance_scale)


def strip(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str], *, zoom: int = 1) -> Image.Image:
    """Pictures of one size as a table: one row after the other, ``labels`` above the columns."""
    from PIL import ImageDraw, ImageFont

    width, height = rows[0][0].width * zoom, rows[0][0].height * zoom
    size = (width + _GAP) * len(labels) + _GAP, (height + _GAP) * len(rows) + _HEAD
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for column, label in enumerate(labels):
        pen.text((_GAP + column * (width + _GAP) + width / 2, _HEAD / 2), label, fill="black", font=font, anchor="mm")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            shown = picture.resize((width, height), Image.Resampling.NEAREST) if zoom != 1 else picture
            sheet.paste(shown, (_GAP + column * (width + _GAP), _HEAD + row * (height + _GAP)))
    return sheet


def cut(sheet: Image.Image, rows: int, columns: int) -> list[list[Image.Image]]:
    """The pictures of a strip of so many rows and columns, as they were put on it."""
    width = (sheet.width - _GAP) // columns - _GAP
    height = (sheet.height - _HEAD) // rows - _GAP
    lefts = [_GAP + column * (width + _GAP) for column in range(columns)]
    tops = [_HEAD + row * (height + _GAP) for row in range(rows)]
    return [[sheet.crop((left, top, left + width, top + height)) for left in lefts] for top in tops]


def _picture(tensor: Tensor) -> Image.Image:
    values = (tensor.float().clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(values.round().permute(1, 2, 0).numpy().astype(np.uint8))
