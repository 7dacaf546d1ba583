"""A model as a folder in diffusers layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from leco_plugin.errors import ModelError
from leco_plugin.families.source import CLASSES, Family, loading, refuse

_ENCODERS = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}


class FolderSource:
    """The parts of a diffusers folder, each loaded when it is asked for."""

    marked_prediction: str | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index = read_json(folder / "model_index.json")
        self.family = self._detect()
        self.scheduler: Mapping[str, Any] = read_json(folder / "scheduler" / "scheduler_config.json")

    def __str__(self) -> str:
        return str(self._folder)

    def _detect(self) -> Family:
        """The family by the parts that the index lists and by their configs; ModelError for what is none."""
        unet = read_json(self._folder / "unet" / "config.json") if "unet" in self._index else {}
        if self._index.get("unet") != ["diffusers", "UNet2DConditionModel"] or unet.get("in_channels") != 4:
            raise refuse(f"{self} holds {self._what(unet)}")
        encoders = tuple(self._class_of(name) for name in ("text_encoder", "text_encoder_2"))
        if encoders == ("CLIPTextModel", "CLIPTextModelWithProjection") and "addition_embed_type" in unet:
            return "sdxl"
        if encoders != ("CLIPTextModel", None) or unet.get("addition_embed_type") is not None:
            raise refuse(f"{self} holds {self._what(unet)}")
        width = unet.get("cross_attention_dim")
        if width in (768, 1024):
            return "sd2" if width == 1024 else "sd1"
        # other widths have models made for tests: OpenCLIP's encoders have another activation than OpenAI's
        path = self._folder / "text_encoder" / "config.json"
        return "sd2" if path.is_file() and read_json(path).get("hidden_act") == "gelu" else "sd1"

    def _class_of(self, part: str) -> str | None:
        entry = self._index.get(part)
        return entry[1] if isinstance(entry, list) and len(entry) == 2 else None

    def _what(self, unet: Mapping[str, Any]) -> str:
        if unet.get("in_channels") == 9:
            return "an inpainting model"
        return f"a {self._index.get('_class_name', 'model of unknown kind')}"

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, such as ``unet``."""
        return read_json(self._folder / part / "config.json")

    def unet(self, dtype: torch.dtype, device: torch.device | None) -> UNet2DConditionModel:
        """The UNet in ``dtype``; straight onto ``device`` where one is given."""
        onto = {} if device is None else {"device_map": {"": str(device)}}
        return self._load(UNet2DConditionModel, "unet", torch_dtype=dtype, **onto)

    def vae(self) -> AutoencoderKL:
        """The VAE in float32."""
        return self._load(AutoencoderKL, "vae", torch_dtype=torch.float32)

    def tokenizer(self, number: int) -> CLIPTokenizer:
        """The tokenizer of text encoder ``number``, from 0."""
        name = numbered("tokenizer", number)
        tokenizer: CLIPTokenizer = self._load(CLIPTokenizer, name)
        # without its files transformers makes one that knows no words, and says nothing
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise ModelError(f"{self._folder / name} holds no vocabulary", fix="get the model again")
        return tokenizer

    def text_encoder(self, number: int) -> nn.Module:
        """Text encoder ``number``, from 0, in the precision of its file."""
        encoder: nn.Module = self._load(_ENCODERS[CLASSES[self.family][number]], numbered("text_encoder", number))
        return encoder

    def _load(self, kind: Any, part: str, **options: Any) -> Any:
        folder = self._folder / part
        if not folder.is_dir():
            raise ModelError(f"{folder} is missing", fix="get the model again")
        with loading(folder):
            return kind.from_pretrained(self._folder, subfolder=part, **self._variant(part), **options)

    def _variant(self, part: str) -> dict[str, str]:
        """Name fp16 files where there are no others."""
        files = [path.name for path in (self._folder / part).glob("*.safetensors")]
        return {"variant": "fp16"} if files and all(".fp16." in name for name in files) else {}


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file of a model; ModelError where it is missing or damaged."""
    try:
        tree = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing", fix="name a folder in diffusers layout") from error
    except ValueError as error:
        raise ModelError(f"{path} is not readable JSON", fix="get the model again") from error
    if not isinstance(tree, dict):
        raise ModelError(f"{path} is not the config of a model", fix="get the model again")
    return tree


def numbered(name: str, number: int) -> str:
    """What part ``number`` of a kind is called, from 0: `text_encoder`, `text_encoder_2`."""
    return name if number == 0 else f"{name}_{number + 1}"
