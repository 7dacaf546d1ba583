"""From what a job names to a loaded flow model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from torch import nn

from leco_plugin.config.families import takes_guidance
from leco_plugin.config.flow_rules import refusals
from leco_plugin.config.schema import JobConfig, MemoryConfig, ModelConfig
from leco_plugin.errors import ModelError
from leco_plugin.families.compiled import compile_blocks
from leco_plugin.families.flow.denoiser import FlowDenoiser
from leco_plugin.families.flow.facts import transformer_alone
from leco_plugin.families.flow.memory import check_memory, checkpoint_blocks, offload, quantization
from leco_plugin.families.flow.one_file import family_in_file
from leco_plugin.families.flow.source import FlowSource, find_family
from leco_plugin.families.fp8 import narrow
from leco_plugin.families.placement import Placement
from leco_plugin.families.source import loading

_MODULES = {"flux2_klein": "flux2"}
"""Families that have the transformer of another one."""


def open_flow(folder: Path, file: Path | None, name: str) -> FlowSource | None:
    """The flow model in a diffusers ``folder``, with the transformer of ``file``; None where the folder has another.

    Raises ModelError where the file is not of the folder's family.
    """
    family = find_family(folder)
    if family is None:
        if file is not None:
            raise ModelError(f"model.extras {folder} holds no flow model", fix="name a diffusers folder of its family")
        return None
    found = family_in_file(file) if file else None
    if found is not None and found.name != _MODULES.get(family.name, family.name):
        raise ModelError(
            f"{file} holds the transformer of {found.title}, and model.extras {folder} is {family.title}",
            fix=f"name a diffusers folder or hub id of {found.title} in model.extras",
        )
    return FlowSource(folder, family, file, name)


def refuse_transformer(path: Path) -> None:
    """Raise ModelError where a file holds a flow model's transformer, which needs the other parts, too."""
    found = family_in_file(path)
    if found is not None:
        raise ModelError([transformer_alone(path, found)])


def refuse_job(job: JobConfig, source: FlowSource) -> None:
    """Raise ModelError with everything in a job that means nothing to the model."""
    takes = takes_guidance(source.family, source.config("transformer"))
    found = list(refusals(job, source.family, takes_guidance=takes))
    if found:
        raise ModelError(found)


def load_flow(
    source: FlowSource,
    model: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    checkpointing: bool,
    memory: MemoryConfig,
) -> FlowDenoiser:
    """The model with its transformer on the CPU until prompts are encoded; ModelError for what cannot be done."""
    check_memory(memory, device)
    if model.guidance_embedding is not None and not takes_guidance(source.family, source.config("transformer")):
        raise ModelError(f"{source} takes no guidance as a number", fix="take model.guidance_embedding out")
    fewer_bits = quantization(memory, dtype, source.bare_transformer()) if memory.quantize else {}
    transformer = source.transformer(dtype, **fewer_bits)
    if model.training_adapter:
        _fuse(source, transformer, model.training_adapter)
    if memory.fp8_base:
        narrow(transformer)
    if memory.offload:
        offload(transformer, memory, device)
    if checkpointing:
        checkpoint_blocks(transformer)
    if memory.torch_compile:
        compile_blocks(transformer, memory.dynamo_backend)
    return flow_denoiser(source, transformer, model, dtype, Placement(transformer, device, stays=bool(memory.offload)))


def flow_denoiser(
    source: FlowSource, transformer: nn.Module, model: ModelConfig, dtype: torch.dtype, placement: Placement
) -> FlowDenoiser:
    """A ``transformer`` of ``source`` in its place, with what the job says of the model."""
    return FlowDenoiser(
        source,
        transformer,
        placement.device,
        dtype,
        placement=placement,
        distilled=source.distilled(model.distilled),
        embedding=source.family.embedding if model.guidance_embedding is None else model.guidance_embedding,
    )


def _fuse(source: FlowSource, transformer: nn.Module, path: Path) -> None:
    """Add the LoRA of a file to the transformer's weights, by diffusers itself."""
    loader: Any = getattr(diffusers, source.family.pipeline)
    target = cast(Any, transformer)
    if not path.is_file():
        raise ModelError(f"model.training_adapter {path} is no file", fix="name the LoRA file")
    with loading(path):
        state = loader.lora_state_dict(str(path.parent), weight_name=path.name)
        state = state[0] if isinstance(state, tuple) else state
        target.load_lora_adapter(state, prefix="transformer", adapter_name="training_adapter")
        target.fuse_lora()
        target.unload_lora()
    transformer.requires_grad_(False)
