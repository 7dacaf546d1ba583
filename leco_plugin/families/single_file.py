"""A model as one .safetensors or .ckpt file in the layout of its authors; read offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTokenizer

from leco_plugin.checkpoint import Checkpoint
from leco_plugin.errors import ModelError
from leco_plugin.families import offline
from leco_plugin.families.folder import FolderSource, numbered
from leco_plugin.families.known import ENCODERS
from leco_plugin.families.original import UNET, VAE, fill, text_tensors, unet_tensors, vae_tensors
from leco_plugin.families.source import CLASSES, Family, loading, refuse

_OTHERS = {
    "an SDXL refiner": ("conditioner.embedders.0.model.",),
    "a UNet alone, in diffusers' layout,": ("down_blocks.",),
    "a VAE alone": (VAE, "decoder."),
    "a UNet without a text encoder": (f"{UNET}input_blocks.",),
}
_INPUT = f"{UNET}input_blocks.0.0.weight"
_V_BIAS = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
_V_SPREAD = 0.09


class FileSource:
    """The parts of a single-file model, each loaded when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file = Checkpoint(path)
        self.family = self._detect()
        self._configs = offline.configs(self.family)

    def __str__(self) -> str:
        return str(self._file.path)

    def _detect(self) -> Family:
        """The family by the text encoders that the file holds; ModelError for what is none."""
        for family, prefixes in ENCODERS.items():
            if _INPUT in self._file.keys and all(self._file.has(prefix) for prefix in prefixes):
                shape = self._file[_INPUT].shape
                if len(shape) != 4:
                    raise ModelError(f"{self} is broken: {_INPUT} is no convolution", fix="get the model again")
                if shape[1] != 4:
                    raise refuse(f"{self} holds a model of {shape[1]} input channels, for inpainting or editing,")
                return family
        for what, prefixes in _OTHERS.items():
            if any(self._file.has(prefix) for prefix in prefixes):
                raise refuse(f"{self} holds {what}")
        raise refuse(f"{self} holds nothing known")

    @property
    def scheduler(self) -> Mapping[str, Any]:
        """The family's noise schedule; with zero terminal SNR where the file has the mark of it."""
        schedule: dict[str, Any] = dict(self._configs["scheduler"])
        if "ztsnr" in self._file.keys:
            schedule |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return schedule

    @property
    def marked_prediction(self) -> str | None:
        """What the file says that it predicts: by a tensor called v_pred, by its metadata, or by its weights."""
        if "v_pred" in self._file.keys:
            return "v_prediction"
        said = self._file.metadata.get("modelspec.prediction_type")
        if said in ("v", "epsilon"):
            return {"v": "v_prediction"}.get(said, said)
        if self.family == "sd2" and _V_BIAS in self._file.keys:
            # SD2's v-model has a wider spread here than its epsilon model: ComfyUI, comfy/supported_models.py
            spread = self._file[_V_BIAS].float().std(unbiased=False).item()
            return "v_prediction" if spread > _V_SPREAD else "epsilon"
        return None

    def config(self, part: str) -> Mapping[str, Any]:
        """The config of ``unet``, ``text_encoder`` or ``text_encoder_2``: the family's."""
        encoders = {numbered("text_encoder", n): config for n, config in enumerate(self._configs["text_encoders"])}
        config: Mapping[str, Any] = encoders[part] if part in encoders else self._configs[part]
        return config

    def unet(self, dtype: torch.dtype, device: torch.device | None) -> UNet2DConditionModel:
        """The UNet in ``dtype``; straight onto ``device`` where one is given."""
        config = self._configs["unet"]
        with init_empty_weights():
            unet = UNet2DConditionModel.from_config(config)
        with loading(self._file.path):
            fill(unet, unet_tensors(self._file, config, dtype, device), self._file)
        return unet.eval()

    def vae(self) -> AutoencoderKL:
        """The VAE in float32; ModelError where the file has none."""
        if not self._file.has(VAE):
            raise ModelError(f"{self} holds no VAE, and so draws no pictures", fix="use a file that holds all parts")
        config = self._configs["vae"]
        with init_empty_weights():
            vae = AutoencoderKL.from_config(config)
        with loading(self._file.path):
            fill(vae, vae_tensors(self._file, config), self._file)
        return vae.eval()

    def tokenizer(self, number: int) -> CLIPTokenizer:
        """CLIP's tokenizer with the padding of text encoder ``number``, from 0."""
        return offline.clip_tokenizer(self._configs["pad_tokens"][number])

    def text_encoder(self, number: int) -> nn.Module:
        """Text encoder ``number``, from 0, in the precision of the file."""
        kind = getattr(transformers, CLASSES[self.family][number])
        config = CLIPTextConfig(**self._configs["text_encoders"][number])
        with init_empty_weights(include_buffers=False):
            encoder: nn.Module = kind(config)
        prefix = ENCODERS[self.family][number]
        with loading(self._file.path):
            tensors = text_tensors(self._file, prefix, encoder)
        # some versions of transformers have a wrapper around the text model
        inner = "text_model." if hasattr(encoder, "text_model") else ""
        named = {key if key.startswith("text_projection") else f"{inner}{key}": t for key, t in tensors.items()}
        if CLASSES[self.family][number] == "CLIPTextModel":
            named.pop("text_projection.weight", None)
        fill(encoder, named, self._file)
        return encoder.eval()


Source = FolderSource | FileSource
"""A Stable Diffusion's parts, each loaded when it is asked for; ``str()`` names it for messages."""
