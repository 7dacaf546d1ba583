"""Pictures from a model at a strength of its LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leco_plugin.contracts import Denoiser, Network, TextTable
from leco_plugin.core.walk import guided


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
    batch: int = 32
    """Pictures in one model call, twice as many rows with guidance."""


@dataclass(frozen=True)
class Shot:
    """One picture: prompt and seed."""

    prompt: str
    seed: int


class Painter:
    """Draws pictures with the model that a LoRA is attached to; every prompt is encoded once."""

    def __init__(self, denoiser: Denoiser, network: Network, prompts: Sequence[str], settings: PictureSettings) -> None:
        self._denoiser, self._network, self._settings = denoiser, network, settings
        distinct = list(dict.fromkeys(["", *prompts]))
        self._number = {prompt: index for index, prompt in enumerate(distinct)}
        self._table: TextTable = denoiser.encode(distinct)

    def draw(self, shots: Sequence[Shot], strength: float) -> list[Image.Image]:
        """One picture a shot with the LoRA at ``strength``; a seed gives the same noise at every strength."""
        size = self._settings.batch
        chunks = [shots[start : start + size] for start in range(0, len(shots), size)]
        with torch.no_grad(), self._network.multiplier(strength):
            latents = [self._denoise(chunk) for chunk in chunks]
        pictures = torch.cat([cast(Decoder, self._denoiser).decode(chunk).cpu() for chunk in latents])
        return [_picture(tensor) for tensor in pictures]

    def _denoise(self, shots: Sequence[Shot]) -> Tensor:
        settings, count = self._settings, len(shots)
        shape = self._denoiser.latent_shape(settings.height, settings.width)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(shot.seed)) for shot in shots]
        sampler = self._denoiser.sampler(settings.sampler, settings.steps)
        generator = torch.Generator().manual_seed(shots[0].seed)
        latents = torch.stack(noise).to(self._denoiser.device) * sampler.init_noise_sigma
        text = self._table.rows([self._number[shot.prompt] for shot in shots] + [self._number[""]] * count)
        sizes = torch.tensor([[settings.height, settings.width, 0, 0, settings.height, settings.width]])
        sizes = sizes.float().to(latents.device).expand(2 * count, -1)
        for index in range(settings.steps):
            rows = torch.cat([sampler.model_input(latents, index)] * 2)
            timesteps = sampler.timesteps[index].expand(2 * count)
            conditional, unconditional = self._denoiser.predict(rows, timesteps, text, sizes).chunk(2)
            prediction = guided(conditional, unconditional, settings.guidance_scale)
            latents = sampler.step(prediction, index, latents, generator)
        return latents


def strip(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str], *, zoom: int = 1) -> Image.Image:
    """Pictures of one size as a table: one row after the other, ``labels`` above the columns."""
    from PIL import ImageDraw, ImageFont

    gap, head = 4, 22
    width, height = rows[0][0].width * zoom, rows[0][0].height * zoom
    sheet = Image.new("RGB", ((width + gap) * len(labels) + gap, (height + gap) * len(rows) + head), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for column, label in enumerate(labels):
        pen.text((gap + column * (width + gap) + width / 2, head / 2), label, fill="black", font=font, anchor="mm")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            shown = picture.resize((width, height), Image.Resampling.NEAREST) if zoom != 1 else picture
            sheet.paste(shown, (gap + column * (width + gap), head + row * (height + gap)))
    return sheet


def _picture(tensor: Tensor) -> Image.Image:
    values = (tensor.float().clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(values.round().permute(1, 2, 0).numpy().astype(np.uint8))
