"""Where the parts of a model come from: a folder, or one file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import CLIPTokenizer
from transformers.utils import logging as transformers_logging

from leco_plugin.config.families import FLOW_FAMILIES
from leco_plugin.errors import ModelError
from leco_plugin.families.known import Family as Family

TITLES: Mapping[Family, str] = {
    "sd1": "a Stable Diffusion 1.x model",
    "sd2": "a Stable Diffusion 2.x model",
    "sdxl": "an SDXL model",
}
CLASSES: Mapping[Family, tuple[str, ...]] = {
    "sd1": ("CLIPTextModel",),
    "sd2": ("CLIPTextModel",),
    "sdxl": ("CLIPTextModel", "CLIPTextModelWithProjection"),
}
"""The text encoders of a family, as transformers calls them."""


class Source(Protocol):
    """A model's parts, each loaded when it is asked for. ``str()`` names it for messages."""

    @property
    def family(self) -> Family:
        """What the model is."""

    @property
    def scheduler(self) -> Mapping[str, Any]:
        """The config of the model's scheduler: its noise schedule and prediction type."""

    @property
    def marked_prediction(self) -> str | None:
        """Prediction type that the weights tell of and the scheduler config does not."""

    def config(self, part: str) -> Mapping[str, Any]:
        """The config of ``unet``, ``text_encoder`` or ``text_encoder_2``."""

    def unet(self, dtype: torch.dtype, device: torch.device | None) -> UNet2DConditionModel:
        """The UNet in ``dtype``; straight onto ``device`` where one is given, else on the CPU."""

    def vae(self) -> AutoencoderKL:
        """The VAE in float32, on the CPU."""

    def tokenizer(self, number: int) -> CLIPTokenizer:
        """The tokenizer of text encoder ``number``, from 0."""

    def text_encoder(self, number: int) -> nn.Module:
        """Text encoder ``number``, from 0, on the CPU."""


def refuse(what: str) -> ModelError:
    """The error for a model that ``what`` describes and that is of no known family."""
    known = ", ".join(family.title for family in FLOW_FAMILIES.values())
    return ModelError(
        f"{what} that cannot be trained here",
        fix=f"use a text-to-image model of Stable Diffusion 1.x, 2.x, SDXL, or one of {known}",
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Block in which the libraries draw no progress bars across the console's, and warn of nothing a user could do."""
    shown = [library for library in (transformers_logging, diffusers_logging) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # that an argument has another name in a later diffusers, which earlier ones do not know
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for library in shown:
            library.enable_progress_bar()


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """Block that reads a part of a model from ``path``; what goes wrong in it is a ModelError that names the path."""
    try:
        with _quietly():
            yield
    except ModelError:
        raise
    # what the libraries raise for a file that is missing, cut off or of another model is not one kind of error
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise ModelError(f"{path} cannot be loaded: {reason}", fix="get the model again") from error
