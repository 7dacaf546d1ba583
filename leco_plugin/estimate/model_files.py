"""What a model is, from its configs and headers alone: no weights are read."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leco_plugin.tiny import MODEL_FOLDER

_BUILTIN = "builtin:tiny"
_CONFIGS = Path(__file__).parents[1] / "families" / "configs"
_MARKS = {
    "sdxl": "conditioner.embedders.1.model.",
    "sd2": "cond_stage_model.model.",
    "sd1": "cond_stage_model.transformer.",
}
"""What a single file of a family holds, and those after it do not."""
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_LONGEST_HEADER = 100 * 2**20


class UnknownModelError(Exception):
    """Why nothing can be said of a model; the text is for the user."""


@dataclass(frozen=True)
class ModelFacts:
    """The configs of a model's parts."""

    unet: Mapping[str, Any]
    text_encoders: tuple[Mapping[str, Any], ...]

    @property
    def text_numbers(self) -> int:
        """Numbers in the weights of all text encoders."""
        # those after the first have a projection
        projections = sum(config["hidden_size"] * config["projection_dim"] for config in self.text_encoders[1:])
        return int(projections + sum(map(_clip_numbers, self.text_encoders)))


def find_model(name_or_path: str) -> ModelFacts:
    """The configs of the model that a job names; UnknownModelError where they are not at hand."""
    path = MODEL_FOLDER if name_or_path == _BUILTIN else Path(name_or_path).expanduser()
    try:
        if path.is_dir():
            return _folder({name: path / name / "config.json" for name in ("unet", "text_encoder", "text_encoder_2")})
        if path.is_file():
            return _single_file(path)
        if path.suffix or path.is_absolute():
            raise UnknownModelError(f"there is no {path}")
        return _folder(_in_hub_cache(name_or_path))
    except (OSError, ValueError, struct.error) as error:
        raise UnknownModelError(f"{name_or_path} cannot be read: {error}") from error


def most_common_rank(path: Path) -> int | None:
    """The rank of most layers of a LoRA file, from its header; None where it does not tell."""
    try:
        shapes = {key: entry["shape"] for key, entry in _header(path).items() if key != "__metadata__"}
    except (OSError, ValueError, struct.error):
        return None
    ranks = Counter(shape[0] for key, shape in shapes.items() if key.endswith(("lora_down.weight", "hada_w1_b")))
    return ranks.most_common(1)[0][0] if ranks else None


def _folder(configs: Mapping[str, Path | None]) -> ModelFacts:
    trees = {name: json.loads(path.read_text("utf-8")) for name, path in configs.items() if path and path.is_file()}
    if (
        trees.get("unet", {}).get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel"
        or "unet" not in trees
    ):
        raise UnknownModelError("the folder holds no Stable Diffusion UNet")
    return ModelFacts(trees.pop("unet"), tuple(trees.values()))


def _single_file(path: Path) -> ModelFacts:
    if path.suffix.lower() in _PICKLES:
        raise UnknownModelError("a .ckpt file tells nothing before it is loaded; a .safetensors file does")
    keys = _header(path)
    family = next((family for family, mark in _MARKS.items() if any(key.startswith(mark) for key in keys)), None)
    if family is None:
        raise UnknownModelError(f"{path} holds no Stable Diffusion model with its text encoders")
    tree = json.loads((_CONFIGS / f"{family}.json").read_text("utf-8"))
    return ModelFacts(tree["unet"], tuple(tree["text_encoders"]))


def _header(path: Path) -> dict[str, Any]:
    """The table of contents of a .safetensors file. Source: the format's own description."""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > _LONGEST_HEADER:
            raise ValueError("it is no .safetensors file")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("it is no .safetensors file")
    return header


def _in_hub_cache(name: str) -> dict[str, Path | None]:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    found: dict[str, Path | None] = {}
    for part in ("unet", "text_encoder", "text_encoder_2"):
        try:
            cached = try_to_load_from_cache(name, f"{part}/config.json")
        except HFValidationError as error:
            raise UnknownModelError(f"there is no folder {name!r}") from error
        found[part] = Path(cached) if isinstance(cached, str) else None
    if found["unet"] is None:
        raise UnknownModelError(f"{name} is not in the hub's cache on this machine; it is downloaded when a run starts")
    return found


def _clip_numbers(config: Mapping[str, Any]) -> int:
    """Numbers in the weights of one CLIP text encoder. Source: transformers, CLIPTextModel."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    layer = 4 * (width + 1) * width + 2 * width * inner + inner + width + 4 * width
    embeddings = (config["vocab_size"] + config.get("max_position_embeddings", 77)) * width
    return int(embeddings + config["num_hidden_layers"] * layer + 2 * width)
