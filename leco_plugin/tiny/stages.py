"""The stages of the making, each a loss for ``fit``: VAE, its decoder alone, UNet or flow model with text encoder."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from leco_plugin.tiny import MODEL_FOLDER
from leco_plugin.tiny.architecture import SCALING_FACTOR, scale_latents, to_tensor
from leco_plugin.tiny.fit import Dice, Score, Stage, fit
from leco_plugin.tiny.pictures import Attributes, caption, picture, random_attributes

if TYPE_CHECKING:
    from diffusers import ZImagePipeline

TEXT_TOKENS = 32
"""What Z-Image's prompts are padded to: a multiple of 32, and no prompt of the little world is longer."""
SNR_CAP = 5.0
"""Min-SNR weighting (arXiv:2303.09556): steps with less noise than this count no more than it."""


def draw_set(count: int, dice: Dice) -> tuple[Tensor, list[Attributes]]:
    """``count`` pictures as uint8 (N, 64, 64, 3), and what they show."""
    shown = [random_attributes(dice.numpy) for _ in range(count)]
    return torch.from_numpy(np.stack([picture(attributes, dice.numpy) for attributes in shown])), shown


def train_vae(vae: AutoencoderKL, stage: Stage, pixels: Tensor, folder: Path) -> None:
    """Teach ``vae`` to give back ``pixels`` (N, 64, 64, 3) through latents near unit variance."""

    def score(step: int, dice: Dice) -> Score:
        images = to_tensor(pixels[_choice(len(pixels), stage.batch, dice)])
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample(generator=dice.torch)).sample
        squared, absolute = _errors(decoded, images, 4.0)
        # absolute error from the start draws everything to the background and stays there
        sharpness = 0.3 if step > stage.steps // 4 else 0.0
        too_wide = torch.relu(posterior.mean.pow(2).mean((0, 2, 3)) - 1.0).mean()
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        loss = 2.0 * squared + sharpness * absolute + 2e-5 * divergence + 1e-3 * too_wide
        return Score(loss, (decoded - images).detach().abs().mean())

    vae.train()
    fit(stage, vae, score, folder)


def train_decoder(vae: AutoencoderKL, stage: Stage, pixels: Tensor, folder: Path) -> None:
    """Sharpen the decoder alone on latents with a little noise, such as a UNet leaves in them."""
    mean, std = encode(vae, pixels)
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]

    def score(_step: int, dice: Dice) -> Score:
        chosen = _choice(len(pixels), stage.batch, dice)
        images = to_tensor(pixels[chosen])
        noise = torch.randn(mean[chosen].shape, generator=dice.torch)
        decoded = vae.decode(mean[chosen] + (std[chosen] + 0.03) * noise).sample
        squared, absolute = _errors(decoded, images, 3.0)
        return Score(2.0 * squared + 0.5 * absolute, (decoded - images).detach().abs().mean())

    fit(stage, vae, score, folder, trained)


def settle_latents(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Scale ``vae``'s latents so that times 0.18215 they have unit std over ``pixels``."""
    mean, std = encode(vae, pixels)
    variance = mean.double().var() + std.double().pow(2).mean()
    scale_latents(vae, 1.0 / (SCALING_FACTOR * float(variance.sqrt())))


def train_unet(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    stage: Stage,
    latents: tuple[Tensor, Tensor],
    shown: list[Attributes],
    tokenizer: CLIPTokenizer,
    folder: Path,
) -> None:
    """Teach both to predict the noise in ``latents`` (mean and std, (N, 4, 8, 8) each) from captions of ``shown``."""
    mean, std = (part * SCALING_FACTOR for part in latents)
    alphas = DDIMScheduler.from_pretrained(MODEL_FOLDER, subfolder="scheduler").alphas_cumprod
    ratio = alphas / (1.0 - alphas)
    weights = ratio.clamp(max=SNR_CAP) / ratio
    weights = weights / weights.mean()

    @cache
    def token_ids(words: str) -> list[int]:
        return list(tokenizer(words, padding="max_length").input_ids)

    def score(_step: int, dice: Dice) -> Score:
        clean, captions, rows = _batch(mean, std, shown, stage.batch, dice)
        text = text_encoder(torch.tensor([token_ids(words) for words in captions])).last_hidden_state[rows]
        # spread evenly over the noise levels, the loss of a batch varies far less
        spread = torch.arange(stage.batch) + torch.rand(stage.batch, generator=dice.torch)
        timesteps = (spread * (len(alphas) / stage.batch)).long().clamp(max=len(alphas) - 1)
        noise = torch.randn(clean.shape, generator=dice.torch)
        level = alphas[timesteps].view(-1, 1, 1, 1)
        predicted = unet(level.sqrt() * clean + (1.0 - level).sqrt() * noise, timesteps, text).sample
        errors = (predicted - noise).pow(2).mean((1, 2, 3))
        return Score((errors * weights[timesteps]).mean(), errors.detach().mean())

    both = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).train()
    fit(stage, both, score, folder)


def train_flow(
    pipeline: "ZImagePipeline",
    stage: Stage,
    latents: tuple[Tensor, Tensor],
    shown: list[Attributes],
    folder: Path,
) -> None:
    """Teach its transformer and text encoder the way from noise to ``latents``, of captions of ``shown``.

    Those are mean and std, (N, 4, 8, 8) each, scaled.
    """

    def score(_step: int, dice: Dice) -> Score:
        picture, captions, rows = _batch(*latents, shown, stage.batch, dice)
        level = _levels(stage.batch, dice)
        noise = torch.randn(picture.shape, generator=dice.torch)
        share = level.view(-1, 1, 1, 1)
        said = predict(pipeline, (1 - share) * picture + share * noise, 1 - level, captions, rows)
        error = (said - (picture - noise)).square().mean()
        return Score(error, error.detach())

    both = nn.ModuleDict({"text_encoder": pipeline.text_encoder, "transformer": pipeline.transformer}).train()
    fit(stage, both, score, folder)


def predict(
    pipeline: "ZImagePipeline", latents: Tensor, times: Tensor, captions: Sequence[str], rows: Tensor
) -> Tensor:
    """Picture - noise (R, 4, 8, 8) for ``latents`` of that shape at ``times`` (R,): 0 is noise, 1 the picture.

    ``rows`` (R,) tells which of ``captions`` each has.
    """
    # a list of its own: the pipeline writes into it
    texts, _ = pipeline.encode_prompt(
        list(captions), do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
    )
    each = [texts[row] for row in rows.tolist()]
    said = pipeline.transformer([one[:, None] for one in latents], times, each, return_dict=False)[0]
    return torch.stack([one.squeeze(1) for one in said])


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of the latents of ``pixels`` uint8 (N, 64, 64, 3): (N, 4, 8, 8) each, unscaled."""
    posteriors = [vae.encode(to_tensor(batch)).latent_dist for batch in torch.split(pixels, 64)]
    mean = torch.cat([posterior.mean for posterior in posteriors]).contiguous()
    return mean, torch.cat([posterior.std for posterior in posteriors]).contiguous()


def _choice(count: int, batch: int, dice: Dice) -> Tensor:
    """Which of ``count`` samples make a batch."""
    return torch.randint(0, count, (batch,), generator=dice.torch)


def _batch(
    mean: Tensor, std: Tensor, shown: list[Attributes], count: int, dice: Dice
) -> tuple[Tensor, list[str], Tensor]:
    """Latents (count, 4, 8, 8), their captions, each once so that it is encoded once, and which of them is whose."""
    chosen = _choice(len(mean), count, dice)
    clean = mean[chosen] + std[chosen] * torch.randn(mean[chosen].shape, generator=dice.torch)
    texts = [caption(shown[index], dice.numpy) for index in chosen.tolist()]
    distinct = list(dict.fromkeys(texts))
    return clean, distinct, torch.tensor([distinct.index(text) for text in texts])


def _levels(count: int, dice: Dice) -> Tensor:
    """Shares of noise (count,), spread evenly: half of them uniform, half around the middle and a little above it."""
    spread = (torch.arange(count) + torch.rand(count, generator=dice.torch)) / count
    uniform = spread.clamp(1e-4, 1 - 1e-4)[torch.randperm(count, generator=dice.torch)]
    middle = torch.sigmoid(0.5 + torch.special.ndtri(uniform))
    return torch.where(torch.arange(count) % 2 == 0, uniform, middle)


def _errors(decoded: Tensor, images: Tensor, stress: float) -> tuple[Tensor, Tensor]:
    """Mean squared and absolute error (); coloured pixels count 1 + ``stress`` times, or small shapes get lost."""
    chroma = images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
    weight = 1.0 + stress * (chroma > 0.4).float()
    weight = weight / weight.mean()
    difference = decoded - images
    return (weight * difference.pow(2)).mean(), (weight * difference.abs()).mean()
