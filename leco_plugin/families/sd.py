"""Stable Diffusion 1.x and 2.x: a UNet conditioned on one text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from leco_plugin.config.families import Distilled
from leco_plugin.contracts import PredictionType, TextRows
from leco_plugin.core.noise import diffusion_snr
from leco_plugin.core.walk import guided
from leco_plugin.errors import ModelError
from leco_plugin.families.base import BaseDenoiser
from leco_plugin.families.embeddings import used_embeddings
from leco_plugin.families.encode import Encoded, Layer, PromptOptions, encode_prompts
from leco_plugin.families.placement import Placement, free
from leco_plugin.families.samplers import DiffusersSampler, cumulative_alphas, make_sampler
from leco_plugin.families.single_file import Source
from leco_plugin.families.source import Family, loading
from leco_plugin.families.text import TensorRows, TensorTable
from leco_plugin.families.tokens import similar_words

PIXELS_PER_LATENT = 8


class SDDenoiser(BaseDenoiser):
    """A UNet2DConditionModel behind the Denoiser contract.

    ``scheduler`` is the config that decides the noise schedule and the prediction type. The parts besides the
    UNet come from ``source`` when they are needed.
    """

    _source: Source
    family: Family = "sd1"
    uses_size_conditioning: ClassVar[bool] = False
    guide = staticmethod(guided)
    distilled: ClassVar[Distilled | None] = None

    def __init__(
        self,
        source: Source,
        unet: UNet2DConditionModel,
        scheduler: Mapping[str, Any],
        device: torch.device,
        options: PromptOptions | None = None,
    ) -> None:
        self._source, self._unet, self._scheduler = source, unet, scheduler
        self.device, self._placement = device, Placement(cast(nn.Module, unet), device)
        self._options = options or PromptOptions()
        self._dtype = compute_dtype(unet)
        self._alphas_cumprod = cumulative_alphas(scheduler).to(device)
        self._cut: dict[str, str] = {}

    @property
    def prediction_type(self) -> PredictionType:
        """As the scheduler config says; epsilon where it says nothing."""
        return cast(PredictionType, self._scheduler.get("prediction_type", "epsilon"))

    @property
    def module(self) -> nn.Module:
        """The UNet."""
        return cast(nn.Module, self._unet)

    def encode(self, prompts: Sequence[str]) -> TensorTable:
        """Hidden states (P, tokens, width) of the prompts, 77 tokens a chunk."""
        encoded = self._encoded(prompts, Layer(self._options.clip_skip or 1, normed=True))
        return TensorTable(encoded.hidden[0].to(self._dtype))

    def _encoded(self, prompts: Sequence[str], layer: Layer) -> Encoded:
        """``prompts`` through the text encoders, while the UNet makes room for them."""
        self._placement.leave()
        encoded = encode_prompts(self._source, prompts, self._options, layer, self.device)
        free(self.device)
        self._placement.take()
        self._cut.update(encoded.cut)
        return encoded

    def pieces(self, words: Sequence[str]) -> dict[str, list[str]]:
        """The tokens that each word becomes, but for those that stand for a learned embedding."""
        tokenizer = self._source.tokenizer(0)
        learned = used_embeddings(self._options.embeddings_folder, words)
        return {word: tokenizer.tokenize(word) for word in words if word.lower() not in learned}

    def similar(self, word: str, count: int) -> dict[str, float]:
        """The words whose embeddings are the most alike, and how alike; see ``tokens.similar_words``."""
        encoder = cast(Any, self._source.text_encoder(0))
        embedding = encoder.get_input_embeddings().weight.detach().float()
        return similar_words(self._source.tokenizer(0), embedding, word, count)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) at 8 pixels a latent; any multiple of 8 pixels fits."""
        if height % PIXELS_PER_LATENT or width % PIXELS_PER_LATENT:
            raise ModelError(f"{height} x {width} pixels is not a multiple of {PIXELS_PER_LATENT} in both directions")
        return int(self._unet.config.in_channels), height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT

    def predict(self, latents: Tensor, timesteps: Tensor, text: TextRows, sizes: Tensor) -> Tensor:
        """UNet prediction (R, C, h, w)."""
        rows = cast(TensorRows, text)
        mixed = self._dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(self.device.type, dtype=self._dtype if mixed else torch.bfloat16, enabled=mixed):
            predicted = self._unet(
                latents.to(self._dtype), timesteps, rows.text, return_dict=False, **self._added(rows, sizes)
            )
        return cast(Tensor, predicted[0])

    def _added(self, rows: TensorRows, sizes: Tensor) -> dict[str, Any]:
        """Further arguments of the UNet; ``sizes`` means nothing to this family."""
        return {}

    def sampler(self, name: str, steps: int, shape: tuple[int, int, int]) -> DiffusersSampler:
        """A diffusers scheduler with this model's noise schedule and prediction type."""
        with loading(Path(str(self._source))):
            return make_sampler(name, self._scheduler, steps, self.device)

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio (R,) at ``timesteps`` (R,)."""
        return diffusion_snr(self._alphas_cumprod, timesteps)


class SD2Denoiser(SDDenoiser):
    """Stable Diffusion 2.x: OpenCLIP's text encoder, of which diffusers keeps the 23 layers that are read."""

    family: Family = "sd2"


def compute_dtype(unet: nn.Module) -> torch.dtype:
    """The precision that the UNet computes in, which is not that of weights stored in fp8."""
    # the first layer is never stored in fp8: see memory.py
    return cast(torch.dtype, next(cast(Any, unet).conv_in.parameters()).dtype)
