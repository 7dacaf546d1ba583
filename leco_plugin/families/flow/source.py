"""Where the parts of a flow model come from: a diffusers folder, or one file with the transformer and a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import diffusers
import torch
import transformers
from packaging.version import Version
from torch import nn

from leco_plugin.config.families import Distilled, FlowFamily, distilled, family_of_pipeline
from leco_plugin.errors import ModelError
from leco_plugin.families.flow.one_file import transformer_in_file
from leco_plugin.families.folder import Folder, read_json
from leco_plugin.families.placement import free
from leco_plugin.families.source import loading
from leco_plugin.tiny import WEIGHTS

_PRECISION = "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"
"""What transformers calls it."""


class FlowSource(Folder):
    """A diffusers folder, with the transformer's weights of ``file`` in the place of its own."""

    def __init__(self, path: Path, family: FlowFamily, file: Path | None = None, name: str = "") -> None:
        super().__init__(path, name or str(file or path))
        self.family, self.file = family, file
        self._pipeline = _pipeline(family)

    def distilled(self, said: bool | None) -> Distilled | None:
        """How the model is distilled, by what is ``said`` of it or by its config files."""
        scheduler = read_json(self.path / "scheduler" / "scheduler_config.json")
        name = Path(self._name).name
        return distilled(self.family, self.index, self.config("transformer"), scheduler, name, said)

    def scheduler(self) -> Any:
        """The model's own scheduler, without history."""
        return self.load(diffusers.FlowMatchEulerDiscreteScheduler, "scheduler")

    def transformer(self, dtype: torch.dtype, **options: Any) -> nn.Module:
        """The transformer in ``dtype``; ``options`` are diffusers' own, such as a quantization config."""
        kind = getattr(diffusers, self.family.transformer)
        options["torch_dtype"] = dtype
        if self.file is None:
            loaded = self.load_model(kind, "transformer", **options)
        elif not hasattr(kind, "from_single_file"):
            raise ModelError(
                f"diffusers {diffusers.__version__} reads no {self.family.title} from one file",
                fix="pip install --upgrade diffusers, or name a diffusers folder",
            )
        else:
            loaded = transformer_in_file(kind, self.file, self.path, self.bare_transformer(), **options)
        return cast(nn.Module, loaded.eval().requires_grad_(False))

    def bare_transformer(self) -> nn.Module:
        """The transformer without weights."""
        with torch.device("meta"):
            return cast(nn.Module, getattr(diffusers, self.family.transformer).from_config(self.config("transformer")))

    def vae(self) -> Any:
        """The VAE in float32, on the CPU."""
        kind, own = getattr(diffusers, str(self.class_of("vae"))), self.path / "vae"
        there = Folder(WEIGHTS[own].parent) if own in WEIGHTS else self
        vae = there.load_model(kind, "vae", torch_dtype=torch.float32).eval()
        if there is not self:
            vae.register_to_config(**{name: self.config("vae")[name] for name in ("scaling_factor", "shift_factor")})
        return vae

    @contextmanager
    def text_pipeline(self, dtype: torch.dtype, device: torch.device) -> Iterator[Any]:
        """Block with the pipeline of the text encoders alone, on the device; they are gone after it."""
        if self.class_of("tokenizer") == "PixtralProcessor" and find_spec("torchvision") is None:
            raise ModelError(f"the tokenizer of {self.family.title} needs torchvision", fix="pip install torchvision")
        named = {part: self.class_of(part) for part in self.index if part.startswith("text_encoder")}
        encoders = {
            part: self.load_model(getattr(transformers, name), part, **{_PRECISION: dtype})
            for part, name in named.items() if name
        }  # fmt: skip
        with loading(self.path):
            pipe = self._pipeline.from_pretrained(
                self.path, transformer=None, vae=None, torch_dtype=dtype, **encoders
            )  # fmt: skip
        # Stable Diffusion 3 without its T5 asks how wide the text would be
        object.__setattr__(pipe, "transformer", SimpleNamespace(config=SimpleNamespace(**self.config("transformer"))))
        try:
            yield pipe.to(device)
        finally:
            for encoder in encoders.values():
                # their memory, at once: what holds itself by a circle is not gone with its last name
                encoder.to("meta")
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
