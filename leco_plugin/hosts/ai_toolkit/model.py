"""The host's model behind LECO's contract: its prompts, its prediction, and the sampler of a walk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from leco_plugin.config.families import Distilled
from leco_plugin.contracts import PredictionType, Sampler, TextRows
from leco_plugin.core.noise import diffusion_snr
from leco_plugin.core.walk import guided
from leco_plugin.errors import ModelError
from leco_plugin.families.samplers import FlowSampler, cumulative_alphas, make_sampler
from leco_plugin.hosts.ai_toolkit.schedule import Nothing, flow_sigmas

Join = Callable[[list[Any]], Any]
"""One of the host's prompt embeddings from several."""
_TEMPLATE_SIDE = 256
"""Pixels of the picture that shows how large latents are."""


@dataclass(frozen=True)
class HostTexts:
    """Embeddings of every distinct prompt, each in the host's own kind."""

    embeds: Sequence[Any]

    def rows(self, prompts: Sequence[int]) -> TextRows:
        """The embeddings of a batch."""
        return HostTexts([self.embeds[prompt] for prompt in prompts])


class HostDenoiser:
    """A loaded model of the host, which it calls ``sd`` whatever it is."""

    guide = staticmethod(guided)
    distilled: ClassVar[Distilled | None] = None

    def __init__(self, sd: Any, join: Join, *, bypass_guidance_embedding: bool = False) -> None:
        """Wrap ``sd``; ``join`` is the host's concat_prompt_embeds."""
        self._sd, self._join = sd, join
        self._more = {"bypass_guidance_embedding": bypass_guidance_embedding}
        self._template: Tensor | None = None
        self._texts = HostTexts(())
        self._samplers: dict[tuple[int, tuple[int, int, int]], FlowSampler] = {}
        self.separate = False
        """Whether rows are asked one by one, since this model mixes those of one call."""
        self.remarks: list[str] = []
        """What a user has to know of how the model is asked."""
        if not sd.is_flow_matching:
            self._alphas_cumprod = cumulative_alphas(sd.noise_scheduler.config)

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
    def encode(self, prompts: Sequence[str]) -> HostTexts:
        """Encode every prompt by itself, as the host does for its samples; the host unloads the encoders when it wants.

        Each in a list of its own: some pipelines edit the list that they are given.
        """
        sd = self._sd
        sd.text_encoder_to(sd.device_torch)
        embeds = [sd.encode_prompt([prompt]).to(sd.device_torch, dtype=sd.torch_dtype).detach() for prompt in prompts]
        # beside the transformer there may be no room for them
        sd.text_encoder_to("cpu")
        self._texts, self._prompts = HostTexts(embeds), list(prompts)
        return self._texts

    def unlike_prompts(self) -> list[int]:
        """Numbers of the shortest and the longest prompt, which are the most likely to disturb each other."""
        order = sorted(range(len(self._prompts)), key=lambda number: len(self._prompts[number]))
        return [order[0], order[-1]]

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """None: the host does not tell."""
        return []

    def cut(self, prompt: str) -> str:
        """Nothing, since no prompt is known to be truncated."""
        return ""

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

    def predict(self, latents: Tensor, timesteps: Tensor, text: TextRows, sizes: Tensor) -> Tensor:
        """The host's prediction (R, C, h, w), without guidance."""
        embeds = cast(HostTexts, text).embeds
        if len(embeds) > 1 and self.separate:
            rows = [slice(row, row + 1) for row in range(len(embeds))]
            return torch.cat([self._predict(latents[i], timesteps[i], embeds[i.start], sizes[i]) for i in rows])
        return self._predict(latents, timesteps, embeds[0] if len(embeds) == 1 else self._join(list(embeds)), sizes)

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

    def sampler(self, name: str, steps: int, shape: tuple[int, int, int]) -> Sampler:
        """The sampler of a walk of ``steps`` steps; flow models have one, whatever the name."""
        if self._sd.is_flow_matching:
            return self._flow_sampler(steps, shape)
        # Stable Diffusion's own schedule has this offset, which the host leaves out
        config = {**self._sd.noise_scheduler.config, "steps_offset": 1}
        return make_sampler(name, config, steps, self.device)

    def _flow_sampler(self, steps: int, shape: tuple[int, int, int]) -> FlowSampler:
        if (steps, shape) not in self._samplers:
            sigmas, problem = flow_sigmas(self._sd, steps, self._pixels(shape), shape, self._texts.embeds[0])
            if problem:
                self.remarks.append(problem)
            self._samplers[steps, shape] = FlowSampler(sigmas, self.device)
        return self._samplers[steps, shape]

    def _pixels(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        """(height, width) of a picture whose latents have this shape."""
        template, side = self._latents_of_nothing(int(self._sd.get_bucket_divisibility()))
        return shape[1] * side // template.shape[2], shape[2] * side // template.shape[3]

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio (R,) at ``timesteps`` (R,)."""
        if self._sd.is_flow_matching:
            noise = timesteps.float() / 1000
            return ((1 - noise) / noise).square()
        return diffusion_snr(self._alphas_cumprod, timesteps)
