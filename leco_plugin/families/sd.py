"""Stable Diffusion 1.x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from leco_plugin.contracts import PredictionType, TextRows
from leco_plugin.core.noise import diffusion_snr
from leco_plugin.errors import ModelError
from leco_plugin.families.samplers import DiffusersSampler, cumulative_alphas, make_sampler
from leco_plugin.families.text import TensorRows, TensorTable

PIXELS_PER_LATENT = 8


class SDDenoiser:
    """A UNet2DConditionModel conditioned on one CLIP text encoder."""

    family = "sd1"
    uses_size_conditioning = False

    def __init__(
        self, folder: Path, unet: UNet2DConditionModel, scheduler: Mapping[str, object], device: torch.device
    ) -> None:
        self._folder, self._unet, self._scheduler = folder, unet, scheduler
        self.device = device
        self._dtype = cast(torch.dtype, unet.dtype)
        self._alphas_cumprod = cumulative_alphas(scheduler).to(device)
        self._truncated: list[str] = []

    @property
    def prediction_type(self) -> PredictionType:
        """As the model's scheduler config says; epsilon where it says nothing."""
        return cast(PredictionType, self._scheduler.get("prediction_type", "epsilon"))

    @property
    def module(self) -> nn.Module:
        """The UNet."""
        return cast(nn.Module, self._unet)

    def encode(self, prompts: Sequence[str]) -> TensorTable:
        """Last hidden states (P, 77, width) of the prompts; the text encoder is loaded for this and freed."""
        tokenizer = CLIPTokenizer.from_pretrained(self._folder, subfolder="tokenizer")
        encoder = CLIPTextModel.from_pretrained(self._folder, subfolder="text_encoder")
        # float32 whatever the file holds: it is used once, and its rounding would be in every step
        encoder.to(self.device, torch.float32).eval()
        limit = int(tokenizer.model_max_length)
        self._truncated = [prompt for prompt in prompts if len(tokenizer(prompt).input_ids) > limit]
        ids = [tokenizer(p, padding="max_length", max_length=limit, truncation=True).input_ids for p in prompts]
        with torch.no_grad():
            # one prompt a call: a prompt's embedding must not depend on its neighbours in the batch
            hidden = [encoder(torch.tensor([row], device=self.device)).last_hidden_state for row in ids]
        return TensorTable(torch.cat(hidden).to(self._dtype))

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Which of ``prompts`` are longer than the text encoder reads; known after ``encode``."""
        return [prompt for prompt in prompts if prompt in self._truncated]

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) at 8 pixels a latent; any multiple of 8 pixels fits."""
        if height % PIXELS_PER_LATENT or width % PIXELS_PER_LATENT:
            raise ModelError(f"{height} x {width} pixels is not a multiple of {PIXELS_PER_LATENT} in both directions")
        return int(self._unet.config.in_channels), height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT

    def predict(self, latents: Tensor, timesteps: Tensor, text: TextRows, sizes: Tensor) -> Tensor:
        """UNet prediction (R, C, h, w); ``sizes`` means nothing to this family."""
        rows = cast(TensorRows, text)
        mixed = self._dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(self.device.type, dtype=self._dtype if mixed else torch.bfloat16, enabled=mixed):
            predicted = self._unet(latents.to(self._dtype), timesteps, rows.text, return_dict=False)
        return cast(Tensor, predicted[0])

    def sampler(self, name: str, steps: int) -> DiffusersSampler:
        """A diffusers scheduler with this model's noise schedule and prediction type."""
        return make_sampler(name, self._scheduler, steps, self.device)

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio (R,) at ``timesteps`` (R,)."""
        return diffusion_snr(self._alphas_cumprod, timesteps)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in -1..1 of ``latents`` (B, C, h, w); the VAE is loaded when first asked."""
        vae = self._vae()
        with torch.no_grad():
            return cast(Tensor, vae.decode(latents.float() / vae.config.scaling_factor, return_dict=False)[0])

    def _vae(self) -> AutoencoderKL:
        if not hasattr(self, "_loaded_vae"):
            # float32: SD's VAE overflows in fp16
            vae = AutoencoderKL.from_pretrained(self._folder, subfolder="vae", torch_dtype=torch.float32)
            self._loaded_vae = vae.to(self.device).eval().requires_grad_(False)
        return self._loaded_vae
