"""From what a job names to a loaded model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from leco_plugin.config.names import SUFFIXES
from leco_plugin.config.recognise import Kind, expect
from leco_plugin.config.schema import JobConfig, MemoryConfig, ModelConfig
from leco_plugin.errors import ModelError
from leco_plugin.families.encode import TOKENS_PER_CHUNK, PromptOptions
from leco_plugin.families.flow.denoiser import FlowDenoiser
from leco_plugin.families.flow.load import load_flow, open_flow, refuse_job, refuse_transformer
from leco_plugin.families.flow.source import FlowSource
from leco_plugin.families.folder import FolderSource
from leco_plugin.families.memory import apply_memory, check_platform
from leco_plugin.families.sd import SD2Denoiser, SDDenoiser
from leco_plugin.families.sdxl import SDXLDenoiser
from leco_plugin.families.single_file import FileSource, Source
from leco_plugin.families.source import TITLES, Family, loading
from leco_plugin.tiny import BUILTIN

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DENOISERS: Mapping[Family, type[SDDenoiser]] = {"sd1": SDDenoiser, "sd2": SD2Denoiser, "sdxl": SDXLDenoiser}
# a repository may hold the whole model once more as single files at its top: those are left where they are
_PARTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
_HUB_FILES = ["model_index.json", *(f"*/*.{kind}" for kind in ("json", "txt", "model", "jinja"))]


def load_model(
    model: ModelConfig | str,
    *,
    dtype: str,
    device: torch.device,
    checkpointing: bool = False,
    memory: MemoryConfig | None = None,
    job: JobConfig | None = None,
) -> SDDenoiser | FlowDenoiser:
    """Load the model that a job names: a built-in one, a diffusers folder, one file or a hub id.

    ``dtype`` is fp32, bf16 or fp16; the model's weights are frozen. With a built-in model, torch computes in one
    thread from then on. Raises ModelError where there is no such model, it is of a family that is not known here, or is
    not what the job says of it, and where the machine lacks what ``memory`` asks for, or a flow model what a ``job``
    asks for.
    """
    if isinstance(model, str):
        model = ModelConfig(name_or_path=model)
    if model.name_or_path in BUILTIN:
        # operations too small to share: threads gain little, lose much on a busy machine, and round sums in an order
        # that hangs on their number, so that a seed would not give the same file everywhere
        torch.set_num_threads(1)
    memory = memory or MemoryConfig()
    check_platform(memory, device)
    source = open_model(model)
    confirm_family(source, model)
    if isinstance(source, FlowSource):
        if job is not None:
            refuse_job(job, source)
        return load_flow(source, model, dtype=DTYPES[dtype], device=device, checkpointing=checkpointing, memory=memory)
    _refuse_flow_options(model, memory, TITLES[source.family])
    scheduler = scheduler_config(source, model)
    unet = source.unet(DTYPES[dtype], device if memory.lowram else None)
    unet.requires_grad_(False)
    # narrowed before it is moved: the device never holds it whole
    apply_memory(unet, memory)
    if checkpointing:
        # checkpointing works in training mode only; a Stable Diffusion UNet has no dropout to switch on
        unet.train()
        unet.enable_gradient_checkpointing()
    options = PromptOptions(
        clip_skip=model.clip_skip,
        max_chunks=model.max_token_length // TOKENS_PER_CHUNK,
        embeddings_folder=model.embeddings_folder,
    )
    # what the scheduler's config says is computed with
    with loading(Path(str(source))):
        return DENOISERS[source.family](source, unet, scheduler, device, options)


def check_job(job: JobConfig) -> None:
    """Raise ModelError for what a job asks of a model that is loaded already and is not for its kind."""
    source = open_model(job.model)
    if isinstance(source, FlowSource):
        refuse_job(job, source)


def open_model(model: ModelConfig, *, download: bool = True) -> Source | FlowSource:
    """Where the parts of the model that a job names come from: a folder, one file, or the hub or its cache alone."""
    name = model.name_or_path
    path = Path(os.path.expanduser(name))
    expect(path, Kind.MODEL)
    if path.suffix.lower() in SUFFIXES and os.path.isfile(path):
        if model.extras is None:
            refuse_transformer(path)
            return FileSource(path)
        folder = model_folder(model.extras, [part for part in _PARTS if part != "transformer"], download=download)
        return cast(FlowSource, open_flow(folder, path, name))
    if model.extras is not None:
        raise ModelError(
            f"model.extras is for a transformer in one file, and {name} is no file", fix="leave extras out"
        )
    folder = model_folder(name, download=download)
    return open_flow(folder, None, name) or FolderSource(folder)


def model_folder(name_or_path: str, parts: Sequence[str] = _PARTS, *, download: bool = True) -> Path:
    """The diffusers folder on disk; of a hub id, ``parts`` are brought where the hub's cache has none."""
    if name_or_path in BUILTIN:
        return BUILTIN[name_or_path]
    path = Path(os.path.expanduser(name_or_path))
    if os.path.isdir(path):
        return path
    if os.path.exists(path) or path.suffix.lower() in SUFFIXES:
        what = "nor the weights of a model" if os.path.exists(path) else "and there is no such file"
        raise ModelError(
            f"{name_or_path} is not a diffusers folder, {what}",
            fix="name a folder that holds model_index.json, a .safetensors or .ckpt file, or a hub id",
        )
    return _from_hub(name_or_path, parts, download)


def confirm_family(source: Source | FlowSource, model: ModelConfig) -> None:
    """Raise ModelError where the job says that the model is something else than it is."""
    title = source.family.title if isinstance(source, FlowSource) else TITLES[source.family]
    said = {"is_v2": (model.is_v2, source.family == "sd2"), "is_xl": (model.is_xl, source.family == "sdxl")}
    for name, (value, found) in said.items():
        if value is not None and value != found:
            raise ModelError(
                f"the job says {name}: {str(value).lower()}, but {source} is {title}",
                fix=f"take {name} out, or name another model",
            )


def _refuse_flow_options(model: ModelConfig, memory: MemoryConfig, title: str) -> None:
    """Raise ModelError for what is said of flow models alone."""
    flow = {name: getattr(model, name) for name in ("distilled", "guidance_embedding", "training_adapter")}
    given = [f"model.{name}" for name, value in flow.items() if value is not None]
    given += [f"memory.{name}" for name in ("quantize", "offload") if getattr(memory, name) is not None]
    if given:
        instead = "; memory.fp8_base holds its weights in eight bits" if "memory.quantize" in given else ""
        raise ModelError(f"{' and '.join(given)} mean nothing to {title}{instead}", fix="take it out")


def scheduler_config(source: Source, model: ModelConfig) -> dict[str, Any]:
    """The config of the model's scheduler, with what the job says of its noise schedule and prediction type."""
    config = dict(source.scheduler)
    config.setdefault("prediction_type", "epsilon")
    if source.marked_prediction is not None:
        config["prediction_type"] = source.marked_prediction
    if model.is_v_pred is not None:
        config["prediction_type"] = "v_prediction" if model.is_v_pred else "epsilon"
    if config["prediction_type"] not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"{source} predicts {config['prediction_type']!r}, which cannot be trained here",
            fix="set model.is_v_pred if the model's scheduler config is wrong",
        )
    if model.zero_terminal_snr:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if config.get("rescale_betas_zero_snr") and config["prediction_type"] == "epsilon":
        raise ModelError(
            "zero terminal SNR needs a v-prediction model: from noise alone, an epsilon model cannot tell a picture",
            fix="take model.zero_terminal_snr out, or set model.is_v_pred if this is a v-prediction model",
        )
    return config


def _from_hub(name: str, parts: Sequence[str], download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        wanted = [*_HUB_FILES, *(f"{part}/*.safetensors" for part in parts)]
        return Path(
            snapshot_download(
                name,
                allow_patterns=wanted,
                ignore_patterns=["*.fp16.*", "*.non_ema.*"],
                local_files_only=not download,
            )
        )
    # whatever the hub's client raises, the user needs one sentence: there is no such model within reach
    except Exception as error:
        if isinstance(error, LocalEntryNotFoundError) and not download:
            raise ModelError(f"{name} is not in the hub's cache here; it is downloaded when a run starts") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"there is no folder {name!r} here, and the hub has no model of that name within reach ({reason})",
            fix=f"check the spelling, or use {next(iter(BUILTIN))} to try things out",
        ) from error
