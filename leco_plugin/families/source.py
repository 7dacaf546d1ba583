"""Where the parts of a model come from: a folder, or one file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from diffusers.utils import logging as diffusers_logging
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
