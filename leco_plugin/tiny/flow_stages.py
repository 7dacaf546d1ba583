"""The making of the tiny flow model on the VAE of the other one."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from transformers import Qwen2Tokenizer

from leco_plugin.tiny.architecture import SCALING_FACTOR
from leco_plugin.tiny.fit import Dice, Score, Stage, fit
from leco_plugin.tiny.flow_architecture import Batched, Captions
from leco_plugin.tiny.pictures import Attributes, caption
from leco_plugin.tiny.stages import choice


def centre_latents(vae: AutoencoderKL, mean: Tensor) -> float:
    """Have the VAE's config take the mean of its latents (N, 4, 8, 8) off, as Flux's does, and return it."""
    shift = float(mean.double().mean())
    vae.register_to_config(shift_factor=shift, scaling_factor=SCALING_FACTOR)
    return shift


def train_flow(
    model: Batched,
    stage: Stage,
    latents: tuple[Tensor, Tensor],
    shown: list[Attributes],
    tokenizer: Qwen2Tokenizer,
    folder: Path,
) -> None:
    """Teach ``model`` the way from noise to ``latents`` (mean and std, (N, 4, 8, 8) each, scaled) of what is shown."""
    mean, std = latents
    captions = Captions(tokenizer)

    def score(_step: int, dice: Dice) -> Score:
        chosen = choice(len(mean), stage.batch, dice)
        picture = mean[chosen] + std[chosen] * torch.randn(mean[chosen].shape, generator=dice.torch)
        # each caption of the batch is encoded once
        texts = [caption(shown[index], dice.numpy) for index in chosen.tolist()]
        distinct = list(dict.fromkeys(texts))
        context = model.context(*captions(distinct))[torch.tensor([distinct.index(text) for text in texts])]
        level = _levels(stage.batch, dice)
        noise = torch.randn(picture.shape, generator=dice.torch)
        share = level.view(-1, 1, 1, 1)
        said = model((1 - share) * picture + share * noise, 1 - level, context)
        error = (said - (picture - noise)).square().mean()
        return Score(error, error.detach())

    model.train()
    fit(stage, model, score, folder)


def _levels(count: int, dice: Dice) -> Tensor:
    """Shares of noise (count,), spread evenly: half of them uniform, half around the middle and a little above it."""
    spread = (torch.arange(count) + torch.rand(count, generator=dice.torch)) / count
    uniform = spread.clamp(1e-4, 1 - 1e-4)[torch.randperm(count, generator=dice.torch)]
    middle = torch.sigmoid(0.5 + torch.special.ndtri(uniform))
    return torch.where(torch.arange(count) % 2 == 0, uniform, middle)
