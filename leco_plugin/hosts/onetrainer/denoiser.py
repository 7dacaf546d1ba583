"""The host's model behind the Denoiser contract: its own ``predict`` with our latents, timestep and text."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from leco_plugin.contracts import PredictionType
from leco_plugin.errors import ModelError
from leco_plugin.families.samplers import set_sigmas
from leco_plugin.hosts.denoiser import HostedDenoiser, Texts, shadowed

TRAINING_TIMESTEPS = 1000


Draw = Callable[[int, int, int], None]
"""Has the host draw a picture of this height and width in pixels, in so many steps."""


class _Found(Exception):  # noqa: N818 - the way out of the host's call once it has what we asked for
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what


class _Batch(dict[str, Any]):
    """A batch of the host's data loader that holds nothing but what is put in: all else is None."""

    def __missing__(self, key: str) -> None:
        return None


@dataclass
class Steering:
    """What the host's ``predict`` is fed with while one of our calls is under way."""

    latents: Tensor
    """(R, C, h, w) or, where the model has frames, (R, C, 1, h, w)."""
    timesteps: Tensor
    """(R,)"""
    flow: bool
    patchify: Callable[[Tensor], Tensor] | None = None

    def noised(self, scaled_latent_image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Our latents in the place of a noised picture, as the host hands that on: with the sigma, for flows."""
        latents = self.latents
        if latents.shape != scaled_latent_image.shape and self.patchify:
            latents = self.patchify(latents)
        if not self.flow:
            return latents
        sigma = self.timesteps / TRAINING_TIMESTEPS
        return latents, sigma.reshape(-1, *[1] * (latents.dim() - 1))


class HostDenoiser(HostedDenoiser):
    """A model that the host has loaded and set up."""

    host = "OneTrainer"

    def __init__(self, setup: Any, model: Any, config: Any, resolution: tuple[int, int], draw: Draw) -> None:
        """``setup``: the host's with our mixin; ``resolution``: (height, width) that prompts are encoded for."""
        super().__init__()
        self.setup, self.model, self.config, self.resolution, self._draw = setup, model, config, resolution, draw
        self._cut: dict[str, str] = {}

    @property
    def prediction_type(self) -> PredictionType:
        """Flow, or what the host's scheduler says."""
        return "flow" if self._flow else cast(PredictionType, self.model.noise_scheduler.config.prediction_type)

    @property
    def family(self) -> str:
        """The host's name of the model type, such as ``stable_diffusion_15``."""
        return str(self.config.model_type).lower()

    @property
    def module(self) -> nn.Module:
        """The denoising part."""
        return cast(nn.Module, getattr(self.model, self.config.model_type.denoising_model_part()))

    @property
    def device(self) -> torch.device:
        """Where the host trains."""
        return torch.device(self.config.train_device)

    @property
    def uses_size_conditioning(self) -> bool:
        """For SDXL alone."""
        return bool(self.config.model_type.is_stable_diffusion_xl())

    @property
    def _flow(self) -> bool:
        return bool(self.config.model_type.is_flow_matching())

    def encode(self, prompts: Sequence[str]) -> Texts:
        """Encode each prompt with the arguments that the host's ``predict`` encodes captions with, LoRA off."""
        self.setup.prepare_text_caching(self.model, self.config)
        with torch.no_grad(), self.setup.prior_model(self.model, self.config):
            self._texts, self._prompts = Texts([self._encode(prompt) for prompt in prompts]), prompts
        # takes the text encoders off the device again
        self.setup.setup_train_device(self.model, self.config)
        self._cut = {prompt: cut for prompt in prompts if (cut := self._unseen(prompt))}
        return self._texts

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Prompts longer than CLIP reads; other text encoders are not asked."""
        return [prompt for prompt in prompts if prompt in self._cut]

    def cut(self, prompt: str) -> str:
        """The end of a truncated prompt."""
        return self._cut[prompt]

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the host's VAE; transformers take latents two by two."""
        factor, vae = self._pixels_per_latent, self.model.vae.config
        unit = factor if hasattr(self.model, "unet") else 2 * factor
        if height % unit or width % unit:
            raise ModelError(f"{height} x {width} pixels is not a multiple of {unit} in both directions")
        channels = vae.get("latent_channels") or vae["z_dim"]
        return int(channels), height // factor, width // factor

    def _reader(self) -> tuple[Any, Any]:
        first = "" if hasattr(self.model, "tokenizer") else "_1"
        return getattr(self.model, f"tokenizer{first}"), getattr(self.model, f"text_encoder{first}")

    def _join(self, texts: Sequence[Any]) -> Any:
        together = _collated(texts)
        return None if together is _APART else together

    @property
    def _pixels_per_latent(self) -> int:
        vae = self.model.vae
        ratio = getattr(vae, "spatial_compression_ratio", None)
        return int(ratio) if ratio else 2 ** (len(vae.config["block_out_channels"]) - 1)

    def _schedule(self) -> dict[str, Any]:
        scheduler = self.model.noise_scheduler
        schedule = dict(scheduler.config)
        # the host sets these two on the scheduler it has, past its config
        if "prediction_type" in schedule:
            schedule["prediction_type"] = scheduler.config.prediction_type
        if self.config.rescale_noise_scheduler_to_zero_terminal_snr and not self._flow:
            schedule |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return schedule

    def _sampled(self, steps: int, shape: tuple[int, int, int]) -> Tensor:
        """As the host's sampler sets them, but for its last stops beside the picture, which pipelines leave out."""
        scheduler, pixels = self.model.noise_scheduler, self._pixels_per_latent
        with (
            shadowed(scheduler, "set_timesteps", _scheduled),
            shadowed(self.model, "encode_text", lambda *_, **__: self._texts.each[0]),
            # nothing large is needed for it
            shadowed(self.model, "materialize_only", lambda *_: None),
        ):
            try:
                self._draw(shape[1] * pixels, shape[2] * pixels, steps)
            except _Found as found:
                options = found.what
            else:
                raise ValueError("it sets no timesteps")
        return set_sigmas(copy.deepcopy(scheduler), steps, options)

    def _predict(self, latents: Tensor, timesteps: Tensor, text: Any, sizes: Tensor) -> Tensor:
        frames = "z_dim" in self.model.vae.config
        latents = latents.unsqueeze(2) if frames else latents
        steering = Steering(latents, timesteps, self._flow, getattr(self.model, "patchify_latents", None))
        with shadowed(self.model, "encode_text", lambda **_: text):
            predicted = self._call(steering, _batch(latents, sizes))["predicted"]
        return cast(Tensor, predicted.squeeze(2) if frames else predicted)

    def _encode(self, prompt: str) -> Any:
        own = self.model.encode_text

        def encode(**given: Any) -> None:
            # what would come from the data loader is None, and captions are not dropped
            kept = {k: v for k, v in given.items() if v is not None and not k.endswith("dropout_probability")}
            raise _Found(own(**{**kept, "text": prompt, "batch_size": 1}))

        shape = self.latent_shape(*self.resolution)
        latents = torch.zeros((1, *shape), device=self.device)
        steering = Steering(latents, torch.zeros(1, device=self.device), self._flow)
        try:
            with shadowed(self.model, "encode_text", encode):
                self._call(steering, _batch(latents, torch.zeros((1, 6))))
        except _Found as encoded:
            return encoded.what
        raise ModelError(f"OneTrainer's {self.family} does not ask for text")

    def _call(self, steering: Steering, batch: _Batch) -> dict[str, Any]:
        scheduler = self.model.noise_scheduler
        # the host works out a target that nothing reads, and looks up samplers' fractional timesteps for it
        with (
            self.setup.steered(steering),
            shadowed(scheduler, "get_velocity", lambda sample, noise, timesteps: sample),
        ):
            return cast(dict[str, Any], self.setup.predict(self.model, batch, self.config, self.model.train_progress))

    def _unseen(self, prompt: str) -> str:
        """The end of a prompt that CLIP does not read, where the model has no other text encoder."""
        names = ("tokenizer", "tokenizer_1", "tokenizer_2", "tokenizer_3", "tokenizer_4")
        tokenizers = [found for name in names if (found := getattr(self.model, name, None)) is not None]
        if not tokenizers or not all(type(each).__name__.startswith("CLIPTokenizer") for each in tokenizers):
            return ""
        tokens = tokenizers[0](prompt, add_special_tokens=False, truncation=False).input_ids
        return str(tokenizers[0].decode(tokens[tokenizers[0].model_max_length - 2 :]))


def _scheduled(num_inference_steps: int | None = None, **options: Any) -> None:
    """Stands for a scheduler's ``set_timesteps``."""
    raise _Found(options)


def _batch(latents: Tensor, sizes: Tensor) -> _Batch:
    """The host's batch for R rows, ``sizes`` (R, 6) in the three pairs that its SDXL reads."""
    columns = sizes.unbind(1)
    return _Batch(
        latent_image=torch.zeros_like(latents),
        original_resolution=columns[0:2],
        crop_offset=columns[2:4],
        crop_resolution=columns[4:6],
    )


_APART = object()
"""Stands for text that does not fit into one batch."""


def _collated(outputs: Sequence[Any]) -> Any:
    """Outputs of ``encode_text`` for one prompt each as one for all, or ``_APART``."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    if isinstance(first, Tensor):
        fits = all(each.shape == first.shape for each in outputs) and first.shape[:1] == (1,)
        return torch.cat(list(outputs)) if fits else _APART
    if isinstance(first, list):
        # one entry per sample
        return [each[0] for each in outputs] if all(len(each) == 1 for each in outputs) else _APART
    if isinstance(first, tuple):
        parts = tuple(_collated(part) for part in zip(*outputs, strict=True))
        return _APART if any(part is _APART for part in parts) else parts
    return first if all(each is first or each == first for each in outputs) else _APART
