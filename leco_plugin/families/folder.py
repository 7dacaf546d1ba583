"""A model as a folder in diffusers' layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTokenizer

from leco_plugin.errors import ModelError
from leco_plugin.families.known import family_of_unet
from leco_plugin.families.source import CLASSES, Family, loading, refuse

_LONGEST = 2**16
"""Tokens; CLIP reads 77."""
_MOST = 2**22
"""No number in the config of a part is as large."""


class Folder:
    """A folder in diffusers' layout, each part loaded when it is asked for; ``str()`` names it for messages."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.path, self._name = path, name or str(path)
        self.index = read_json(path / "model_index.json")

    def __str__(self) -> str:
        return self._name

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, such as ``unet``."""
        return read_json(self.path / part / "config.json")

    def class_of(self, part: str) -> str | None:
        """The class of a part as the index has it; None where the model is without."""
        entry = self.index.get(part)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 else None

    def load_model(self, kind: Any, part: str, **options: Any) -> Any:
        """A part with weights; ModelError where some are missing, which the libraries make up without a word."""
        self.config(part)
        model, found = self.load(kind, part, output_loading_info=True, **options)
        missing = sorted(found["missing_keys"])
        if missing:
            what = f"{self.path / part} lacks {len(missing)} weights, such as {missing[0]}"
            raise ModelError(what, fix="get the model again")
        return model

    def load(self, kind: Any, part: str, **options: Any) -> Any:
        """A part by the library that has its class; ModelError where that fails."""
        folder = self.path / part
        if not folder.is_dir():
            raise ModelError(f"{folder} is missing", fix="get the model again")
        files = [path.name for path in folder.glob("*.safetensors")]
        # fp16 files where there are no others
        if files and all(".fp16." in name for name in files):
            options["variant"] = "fp16"
        with loading(folder):
            return kind.from_pretrained(self.path, subfolder=part, **options)


class FolderSource(Folder):
    """The parts of a Stable Diffusion."""

    marked_prediction: str | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.family = self._detect()
        self.scheduler: Mapping[str, Any] = read_json(path / "scheduler" / "scheduler_config.json")

    def _detect(self) -> Family:
        """The family by the parts that the index lists and by their configs; ModelError for what is none."""
        unet = self.config("unet") if "unet" in self.index else {}
        if self.index.get("unet") != ["diffusers", "UNet2DConditionModel"] or unet.get("in_channels") != 4:
            raise refuse(f"{self} holds {self._what(unet)}")
        encoders = tuple(self.class_of(name) for name in ("text_encoder", "text_encoder_2"))
        if encoders == ("CLIPTextModel", "CLIPTextModelWithProjection") and "addition_embed_type" in unet:
            return "sdxl"
        if encoders != ("CLIPTextModel", None) or unet.get("addition_embed_type") is not None:
            raise refuse(f"{self} holds {self._what(unet)}")
        path = self.path / "text_encoder" / "config.json"
        return family_of_unet(unet, read_json(path) if path.is_file() else {})

    def _what(self, unet: Mapping[str, Any]) -> str:
        if unet.get("in_channels") == 9:
            return "an inpainting model"
        return f"a {self.index.get('_class_name', 'model of unknown kind')}"

    def unet(self, dtype: torch.dtype, device: torch.device | None) -> UNet2DConditionModel:
        """The UNet in ``dtype``; straight onto ``device`` where one is given."""
        onto = {} if device is None else {"device_map": {"": str(device)}}
        return cast(UNet2DConditionModel, self.load_model(UNet2DConditionModel, "unet", torch_dtype=dtype, **onto))

    def vae(self) -> AutoencoderKL:
        """The VAE in float32."""
        vae: AutoencoderKL = self.load_model(AutoencoderKL, "vae", torch_dtype=torch.float32)
        scale = vae.config.scaling_factor
        if not isinstance(scale, (int, float)) or not scale:
            raise ModelError(f"{self.path / 'vae'} has no scaling_factor", fix="get the model again")
        return vae

    def tokenizer(self, number: int) -> CLIPTokenizer:
        """The tokenizer of text encoder ``number``, from 0."""
        name = numbered("tokenizer", number)
        tokenizer: CLIPTokenizer = self.load(CLIPTokenizer, name)
        # without its files transformers makes one that knows no words, and says nothing
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise ModelError(f"{self.path / name} holds no vocabulary", fix="get the model again")
        # without a length, too, transformers makes one up, of 30 digits
        marks = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        if not 2 < tokenizer.model_max_length < _LONGEST or None in marks:
            what = "does not tell how many tokens a prompt has, or how it begins and ends"
            raise ModelError(f"{self.path / name} {what}", fix="get the model again")
        return tokenizer

    def text_encoder(self, number: int) -> nn.Module:
        """Text encoder ``number``, from 0, in the precision of its file."""
        kind = getattr(transformers, CLASSES[self.family][number])
        return cast(nn.Module, self.load_model(kind, numbered("text_encoder", number)))


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file of a model; ModelError where it is missing or damaged."""
    try:
        tree = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing", fix="name a folder in diffusers layout") from error
    # RecursionError: brackets within brackets
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON", fix="get the model again") from error
    if not isinstance(tree, dict):
        raise ModelError(f"{path} is not the config of a model", fix="get the model again")
    for key, value in tree.items():
        # tables of such a size would be made before anything is compared with the weights
        if isinstance(value, (int, float)) and abs(value) > _MOST:
            raise ModelError(f"{path}: {key} is {str(value)[:20]}, more than any model has", fix="get the model again")
    return tree


def numbered(name: str, number: int) -> str:
    """What part ``number`` of a kind is called, from 0: `text_encoder`, `text_encoder_2`."""
    return name if number == 0 else f"{name}_{number + 1}"
