"""Where the parts of a flow model come from: a diffusers folder, or one file with the transformer and a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import diffusers
import torch
from packaging.version import Version
from torch import nn

from leco_plugin.config.families import Distilled, FlowFamily, distilled, family_of_pipeline
from leco_plugin.errors import ModelError
from leco_plugin.families.folder import read_json
from leco_plugin.families.placement import free
from leco_plugin.families.source import loading
from leco_plugin.tiny import WEIGHTS


class FlowSource:
    """A diffusers folder, each part loaded when it is asked for; ``str()`` names the model for messages.

    ``file`` has the transformer's weights in the place of the folder's own.
    """

    def __init__(self, folder: Path, family: FlowFamily, file: Path | None = None, name: str | None = None) -> None:
        self.folder, self.family, self.file = folder, family, file
        self.index = read_json(folder / "model_index.json")
        self._name = name or str(file or folder)
        self._pipeline = _pipeline(family)

    def __str__(self) -> str:
        return self._name

    def config(self, part: str) -> dict[str, Any]:
        """The config of the transformer or VAE."""
        return read_json(self.folder / part / "config.json")

    def distilled(self, said: bool | None) -> Distilled | None:
        """How the model is distilled, by what is ``said`` of it or by its config files."""
        scheduler = read_json(self.folder / "scheduler" / "scheduler_config.json")
        name = Path(self._name).name
        return distilled(self.family, self.index, self.config("transformer"), scheduler, name, said)

    def scheduler(self) -> Any:
        """The model's own scheduler, without history."""
        with loading(self.folder / "scheduler"):
            return diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(self.folder, subfolder="scheduler")

    def transformer(self, dtype: torch.dtype, **options: Any) -> nn.Module:
        """The transformer in ``dtype``; ``options`` are diffusers' own, such as a quantization config."""
        kind = getattr(diffusers, self.family.transformer)
        with loading(self.file or self.folder / "transformer"):
            if self.file is None:
                loaded = kind.from_pretrained(self.folder, subfolder="transformer", torch_dtype=dtype, **options)
            else:
                # the folder has the config: nothing is looked up in the hub
                loaded = kind.from_single_file(
                    str(self.file), config=str(self.folder), subfolder="transformer", torch_dtype=dtype, **options
                )
        return cast(nn.Module, loaded.eval().requires_grad_(False))

    def bare_transformer(self) -> nn.Module:
        """The transformer without weights."""
        with torch.device("meta"):
            return cast(nn.Module, getattr(diffusers, self.family.transformer).from_config(self.config("transformer")))

    def vae(self) -> Any:
        """The VAE in float32, on the CPU."""
        kind, own = getattr(diffusers, self.index["vae"][1]), self.folder / "vae"
        with loading(own):
            vae = kind.from_pretrained(WEIGHTS.get(own, own), torch_dtype=torch.float32).eval()
        if own in WEIGHTS:
            vae.register_to_config(**{name: self.config("vae")[name] for name in ("scaling_factor", "shift_factor")})
        return vae

    @contextmanager
    def text_pipeline(self, dtype: torch.dtype, device: torch.device) -> Iterator[Any]:
        """Block with the pipeline of the text encoders alone, on the device; they are gone after it."""
        if self.index.get("tokenizer", [""])[-1] == "PixtralProcessor" and find_spec("torchvision") is None:
            raise ModelError(f"the tokenizer of {self.family.title} needs torchvision", fix="pip install torchvision")
        with loading(self.folder):
            pipe = self._pipeline.from_pretrained(self.folder, transformer=None, vae=None, torch_dtype=dtype)
        # Stable Diffusion 3 without its T5 asks how wide the text would be
        object.__setattr__(pipe, "transformer", SimpleNamespace(config=SimpleNamespace(**self.config("transformer"))))
        try:
            yield pipe.to(device)
        finally:
            for part in pipe.components.values():
                if isinstance(part, nn.Module):
                    # their memory, at once: what holds itself by a circle is not gone with its last name
                    part.to("meta")
            free(device)

    @property
    def vae_pixels(self) -> int:
        """Pixels of a picture in one latent pixel of the VAE, along a side."""
        config = self.config("vae")
        blocks = config.get("block_out_channels") or config["temperal_downsample"]
        # video VAEs name their halvings, the others their levels
        return int(2 ** (len(blocks) - ("block_out_channels" in config)))


def _pipeline(family: FlowFamily) -> Any:
    """The class of the family's pipeline; ModelError where the installed libraries do not have it."""
    if Version(diffusers.__version__) < Version(family.since):
        raise ModelError(
            f"{family.title} needs diffusers {family.since} or newer, and {diffusers.__version__} is installed",
            fix="pip install --upgrade diffusers",
        )
    try:
        return getattr(diffusers, family.pipeline)
    # what diffusers makes of a library that is missing or too old for it
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(
            f"diffusers cannot load its pipeline of {family.title}: {reason}",
            fix="pip install --upgrade diffusers transformers",
        ) from error


def find_family(folder: Path) -> FlowFamily | None:
    """The family of a diffusers folder; None where it is none of these."""
    path = folder / "model_index.json"
    return family_of_pipeline(read_json(path).get("_class_name")) if path.is_file() else None


def named_in(checkpoint: Mapping[str, Any]) -> str:
    """What diffusers takes the weights of one file for, such as ``flux-dev``; empty where it stumbles."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    try:
        return str(infer_diffusers_model_type(checkpoint))
    except (IndexError, KeyError):
        return ""
