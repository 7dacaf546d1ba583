"""The host's model behind LECO's contract: its prompts, its prediction, and the sampler of a walk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from leco_plugin.contracts import PredictionType
from leco_plugin.errors import ModelError
from leco_plugin.hosts.ai_toolkit.architectures import MIXED
from leco_plugin.hosts.ai_toolkit.schedule import Nothing, recorded
from leco_plugin.hosts.denoiser import HostedDenoiser, Texts

_TEMPLATE_SIDE = 256
"""Pixels of the picture that shows how large latents are."""


class HostDenoiser(HostedDenoiser):
    """A loaded model of the host, which it calls ``sd`` whatever it is."""

    host = "ai-toolkit"

    def __init__(
        self,
        sd: Any,
        join: Callable[[list[Any]], Any],
        *,
        bypass_guidance_embedding: bool = False,
        encoding: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Wrap ``sd``; ``join`` is the host's concat_prompt_embeds: one of its prompt embeddings from several.

        ``encoding``: block in which the encoders have the device.
        """
        super().__init__()
        self._sd, self._of_many, self._encoding = sd, join, encoding
        self._more = {"bypass_guidance_embedding": bypass_guidance_embedding}
        self._template: Tensor | None = None
        self.mixes = self.family in MIXED

    @property
    def prediction_type(self) -> PredictionType:
        """Flow where the host says so, else what its job says: v or epsilon."""
        return "flow" if self._sd.is_flow_matching else cast(PredictionType, self._sd.prediction_type)

    @property
    def family(self) -> str:
        """The host's name of the architecture."""
        return str(self._sd.arch)

    @property
    def module(self) -> nn.Module:
        """The UNet or transformer."""
        return cast(nn.Module, self._sd.unet)

    @property
    def device(self) -> torch.device:
        """Where the host computes."""
        return cast(torch.device, self._sd.device_torch)

    @property
    def uses_size_conditioning(self) -> bool:
        """SDXL alone."""
        return bool(self._sd.is_xl)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Texts:
        """Encode every prompt by itself, as the host does for its samples; the host unloads the encoders when it wants.

        Each in a list of its own: some pipelines edit the list that they are given.
        """
        sd = self._sd
        with self._encoding():
            sd.text_encoder_to(sd.device_torch)
            encoded = [sd.encode_prompt([prompt]) for prompt in prompts]
            embeds = [one.to(sd.device_torch, dtype=sd.torch_dtype).detach() for one in encoded]
            # beside the transformer there may be no room for them
            sd.text_encoder_to("cpu")
        self._texts, self._prompts = Texts(embeds), list(prompts)
        return self._texts

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w), in proportion to what the host's VAE makes of an empty picture."""
        step = int(self._sd.get_bucket_divisibility())
        if height % step or width % step:
            message = f"{height} x {width} pixels is not a multiple of {step} in both directions, as this model needs"
            raise ModelError(message, fix="change resolution in the prompts")
        template, side = self._latents_of_nothing(step)
        channels, template_height, template_width = template.shape[1:]
        return channels, height * template_height // side, width * template_width // side

    def _latents_of_nothing(self, step: int) -> tuple[Tensor, int]:
        side = -(-_TEMPLATE_SIDE // step) * step
        if self._template is None:
            latents = self._sd.encode_images([torch.zeros(3, side, side)])
            self._template = self._sd.get_latent_noise_from_latents(latents)
            if self._template.ndim != 4:
                raise ModelError(f"latents of {self.family} have {self._template.ndim} dimensions; LECO knows pictures")
        return self._template, side

    def _join(self, texts: Sequence[Any]) -> Any:
        return self._of_many(list(texts))

    def _reader(self) -> tuple[Any, Any]:
        parts = self._sd.tokenizer, self._sd.text_encoder
        tokenizer, encoder = (part[0] if isinstance(part, list) else part for part in parts)
        return tokenizer, encoder

    def _predict(self, latents: Tensor, timesteps: Tensor, text: Any, sizes: Tensor) -> Tensor:
        sd = self._sd
        added = {"add_time_ids": sizes} if self.uses_size_conditioning else {}
        predicted = sd.predict_noise(
            latents=latents.to(sd.torch_dtype),
            conditional_embeddings=text,
            timestep=timesteps,
            guidance_scale=1.0,
            guidance_embedding_scale=1.0,
            # the walk's own sampler has scaled them: the host's scheduler is at no step of the walk
            is_input_scaled=True,
            batch=Nothing(),
            **self._more,
            **added,
        )
        return cast(Tensor, predicted)

    def _schedule(self) -> Mapping[str, Any]:
        config = self._sd.noise_scheduler.config
        # Stable Diffusion's own schedule has this offset, which the host leaves out
        return config if self._sd.is_flow_matching else {**config, "steps_offset": 1}

    def _sampled(self, steps: int, shape: tuple[int, int, int]) -> Tensor:
        """Recorded; the host's older models have no sampling that can be asked, theirs is that of their pipeline."""
        if not hasattr(self._sd, "generate_single_image"):
            return self._configured(steps, shape)
        return recorded(self._sd, steps, self._pixels(shape), self._texts.each[0])

    def _pixels(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        """(height, width) of a picture whose latents have this shape."""
        template, side = self._latents_of_nothing(int(self._sd.get_bucket_divisibility()))
        return shape[1] * side // template.shape[2], shape[2] * side // template.shape[3]
