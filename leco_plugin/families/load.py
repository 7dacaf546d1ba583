"""From what a job names to a loaded model."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from leco_plugin.errors import ModelError
from leco_plugin.families.sd import SDDenoiser
from leco_plugin.tiny import MODEL_FOLDER

BUILTIN = "builtin:tiny"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(name_or_path: str, *, dtype: str, device: torch.device, checkpointing: bool = False) -> SDDenoiser:
    """Load the model that a job names: ``builtin:tiny``, a diffusers folder or a hub id.

    ``dtype`` is fp32, bf16 or fp16; the model's weights are frozen. Raises ModelError where there is no such
    model, or it is of a family that is not known here.
    """
    from diffusers import UNet2DConditionModel

    folder = model_folder(name_or_path)
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    _refuse_other_families(folder)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=_DTYPES[dtype])
    unet.requires_grad_(False).to(device)
    if checkpointing:
        # checkpointing works in training mode only; a Stable Diffusion UNet has no dropout to switch on
        unet.train()
        unet.enable_gradient_checkpointing()
    return SDDenoiser(folder, unet, scheduler, device)


def model_folder(name_or_path: str) -> Path:
    """The diffusers folder on disk; a hub id is taken from the hub's cache or downloaded into it."""
    if name_or_path == BUILTIN:
        return MODEL_FOLDER
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.suffix in {".safetensors", ".ckpt", ".pt"}:
        raise ModelError(
            f"{name_or_path} is not a diffusers folder", fix="name a folder that holds model_index.json, or a hub id"
        )
    return _from_hub(name_or_path)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.txt", "*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=["*.fp16.*", "*.non_ema.*"]))
    # whatever the hub's client raises, the user needs one sentence: there is no such model within reach
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"there is no folder {name!r} here, and the hub has no model of that name within reach ({reason})",
            fix=f"check the spelling, or use {BUILTIN} to try things out",
        ) from error


def _refuse_other_families(folder: Path) -> None:
    index = _read_json(folder / "model_index.json")
    text_encoder = index.get("text_encoder")
    unet = _read_json(folder / "unet" / "config.json") if "unet" in index else {}
    known = index.get("unet") == ["diffusers", "UNet2DConditionModel"] and "text_encoder_2" not in index
    if not known or text_encoder != ["transformers", "CLIPTextModel"] or unet.get("in_channels") != 4:
        raise ModelError(
            f"{folder} holds a {index.get('_class_name', 'model of unknown kind')} that cannot be trained here",
            fix="use a Stable Diffusion 1.x text-to-image model in diffusers layout",
        )


def _read_json(path: Path) -> dict[str, object]:
    try:
        tree: dict[str, object] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing", fix="name a folder in diffusers layout") from error
    except ValueError as error:
        raise ModelError(f"{path} is not readable JSON", fix="get the model again") from error
    return tree
