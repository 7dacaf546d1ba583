"""What a job means for a flow model: what is refused, and what its defaults are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from leco_plugin.config.defaults import filled
from leco_plugin.config.families import Distilled, FlowFamily
from leco_plugin.config.kinds import Frozen
from leco_plugin.config.names import FLOW_SAMPLER
from leco_plugin.config.schema import JobConfig, NetworkConfig, PromptPair
from leco_plugin.errors import Problem

_PICTURE_GUIDANCE = 4.0
"""Guidance of pictures with models that are not distilled, as their pipelines have it."""


def refusals(job: JobConfig, family: FlowFamily, *, takes_guidance: bool = True) -> Iterator[Problem]:
    """What a job asks for that means nothing to a flow model; whether it ``takes_guidance`` as a number it tells."""
    model, train, memory = job.model, job.train, job.memory
    embeds = takes_guidance and family.embedding is not None
    said = {
        "model.is_v2": (bool(model.is_v2), "it is no Stable Diffusion 2.x model"),
        "model.is_xl": (bool(model.is_xl), "it is no SDXL model"),
        "model.clip_skip": (model.clip_skip is not None, "its text encoders are read at the layer that it knows"),
        "model.max_token_length": (model.max_token_length != 75, "it reads prompts as long as its pipeline does"),
        "model.embeddings_folder": (model.embeddings_folder is not None, "textual inversion is for CLIP alone"),
        "model.is_v_pred": (model.is_v_pred is not None, "it predicts the flow from picture to noise"),
        "model.zero_terminal_snr": (model.zero_terminal_snr, "its walks begin at pure noise anyway"),
        "model.guidance_embedding": (
            model.guidance_embedding is not None and not embeds, "it takes no guidance as a number"
        ),
        "train.min_snr_gamma": (train.min_snr_gamma is not None, "the weighting is made for epsilon and v"),
        "memory.attention": (memory.attention != "sdpa", "it is a choice for UNets"),
        "memory.lowram": (memory.lowram, "memory.offload is what it has instead"),
    }  # fmt: skip
    for key, (is_set, reason) in said.items():
        if is_set:
            yield Problem(None, f"{key} means nothing to {family.title}: {reason}", f"take {key} out")
    if model.training_adapter is not None and memory.quantize is not None:
        message = "model.training_adapter cannot be added to weights that are quantized"
        yield Problem(None, message, "set memory.fp8_base instead of memory.quantize")
    samplers = {"train.noise_scheduler": _set(train, "noise_scheduler"), "sample.sampler": _set(job.sample, "sampler")}
    for key, name in samplers.items():
        if name not in (None, FLOW_SAMPLER):
            message = f"{key} {name} is no way to walk with {family.title}, which has one of its own"
            yield Problem(None, message, f"take {key} out")
    yield from network_refusals(job.network, family)


def network_refusals(network: NetworkConfig, family: FlowFamily) -> Iterator[Problem]:
    """What the network section says of UNets, and asks for files that no loader would read."""
    if network.type != "lora":
        message = f"network.type: no loader reads {network.type} files for {family.title} without converting them"
        yield Problem(None, message, "set network.type to lora")
    for name in ("conv", "conv_alpha"):
        if _set(network, name) is not None:
            message = f"{family.title} has no convolutions that network.{name} could mean"
            yield Problem(None, message, f"leave {name} out")
    if network.layers != "all":
        message = (
            f"network.layers {network.layers} is about UNets, and {family.title} attends to text and picture together"
        )
        yield Problem(None, message, "leave layers out; only_if_contains: [attn] takes attention alone")


def fitted(job: JobConfig, distilled: Distilled | None) -> JobConfig:
    """``job`` for a flow model: what it leaves open is as that model is sampled."""
    walk: dict[str, Any] = {}
    picture: dict[str, Any] = {"sampler": FLOW_SAMPLER, "guidance_scale": _PICTURE_GUIDANCE}
    if distilled is not None:
        walk["denoise_guidance_scale"] = picture["guidance_scale"] = distilled.guidance
        if distilled.steps:
            walk["max_denoising_steps"] = picture["sample_steps"] = distilled.steps
    parts = {
        "leco": filled(job.leco, walk),
        "sample": filled(job.sample, picture),
        "train": filled(job.train, {"noise_scheduler": FLOW_SAMPLER}),
    }
    return job.model_copy(update=parts)


def remarks(job: JobConfig, distilled: Distilled | None) -> Iterator[Problem]:
    """What is odd about the walks of a job on a distilled model."""
    if distilled is None:
        return
    guidance, steps = job.leco.denoise_guidance_scale, job.leco.max_denoising_steps
    if guidance != distilled.guidance:
        yield Problem(
            None,
            f"leco.denoise_guidance_scale is {guidance:g}, and the model is distilled, which is sampled without "
            f"guidance ({distilled.why})",
            "take it out, or set model.distilled: false if the model is not",
        )
    if distilled.steps and steps > 4 * distilled.steps:
        yield Problem(
            None,
            f"leco.max_denoising_steps is {steps}, and the model is made for {distilled.steps} steps ({distilled.why})",
            "take it out, or set model.distilled: false if the model is not",
        )


def without_effect(pairs: Sequence[PromptPair], model: str) -> Iterator[Problem]:
    """What pairs ask of a ``model`` that knows no sizes."""
    if any(pair.dynamic_crops for pair in pairs):
        yield Problem(None, f"dynamic_crops has no effect on {model}: it has no size conditioning", "take it out")


def _set(section: Frozen, name: str) -> Any:
    """What a section says; None where it leaves it open."""
    return getattr(section, name) if name in section.model_fields_set else None
