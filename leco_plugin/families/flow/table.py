"""What sets the families of flow models apart: their text, what their transformers take, time, sign and schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leco_plugin.families.flow.rows import FlowRows, Text
from leco_plugin.families.samplers import flux2_shift, size_shift

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """One family; ``config.families`` has its names."""

    text: Callable[[Any, str, int], Text]
    """One prompt by the pipeline's own ``encode_prompt``, read up to so many tokens."""
    inputs: Callable[[FlowRows, int, int], dict[str, Any]]
    """What the transformer takes besides latents and time, for latents of (h, w)."""
    length: int = 512
    """Tokens of a prompt that are read."""
    layout: str = "packed"
    latents: str = "hidden_states"
    """What the transformer calls the latents."""
    time: str = "timestep"
    """What it calls the time."""
    time_range: float = 1.0
    """The time of pure noise to it; to a scheduler that is 1000."""
    inverted: bool = False
    """Its time runs from 0 at noise to 1 at the picture, and it predicts picture - noise."""
    mu: Callable[[Config, int, int], float] | None = None
    """Shift of a schedule that depends on the size, from the scheduler's config, image tokens and steps."""
    own_sigmas: bool = False
    """Whether the scheduler makes its sigmas itself; else they are 1..1/N before the shift."""
    tokens: Callable[[int, int, int], int] = lambda channels, h, w: h * w // 4
    """Image tokens that the shift is counted from, for latents of (C, h, w)."""
    norm: str = ""
    """What the pipeline scales a guided prediction back to: the norm of the conditional one per token or per row of
    latent pixels; empty where it leaves it."""
    pixels: str = "shifted"
    """How latents are scaled for the VAE; see ``base.decoded``."""


def _grid(h: int, w: int, device: torch.device) -> Tensor:
    return torch.cartesian_prod(torch.arange(h, device=device), torch.arange(w, device=device)).float()


def _image_ids(h: int, w: int, device: torch.device) -> Tensor:
    """(h w / 4, 3): 0, row and column of every token."""
    return torch.cat([torch.zeros(h * w // 4, 1, device=device), _grid(h // 2, w // 2, device)], 1)


# --- text: always a list of its own, since some pipelines write into the one that they are given


def _text(*names: str, **options: Any) -> Callable[[Any, str, int], Text]:
    """What ``encode_prompt`` with these ``options`` answers, by name; answers without a name are left out."""

    def text(pipe: Any, prompt: str, length: int) -> Text:
        answers = pipe.encode_prompt([prompt], max_sequence_length=length, **options)
        return {name: answer[0] for name, answer in zip(names, answers, strict=False) if name}

    return text


def _lumina2_text(pipe: Any, prompt: str, length: int) -> Text:
    # the pipeline puts its system prompt before a prompt, but not before an empty negative one
    if prompt:
        states, mask, *_ = pipe.encode_prompt([prompt], False, max_sequence_length=length)
    else:
        states, mask = pipe._get_gemma_prompt_embeds([prompt], max_sequence_length=length)
    return {"states": states[0], "mask": mask[0]}


# --- what the transformer takes


def _flux_inputs(rows: FlowRows, h: int, w: int) -> dict[str, Any]:
    states = rows.stacked("states")
    return {
        "encoder_hidden_states": states,
        "pooled_projections": rows.stacked("pooled"),
        "txt_ids": torch.zeros(states.shape[1], 3, device=states.device),
        "img_ids": _image_ids(h, w, states.device),
    }


def _chroma_inputs(rows: FlowRows, h: int, w: int) -> dict[str, Any]:
    states, mask = rows.stacked("states"), rows.stacked("mask")
    return {
        "encoder_hidden_states": states,
        # the text's mask, and all of the picture
        "attention_mask": torch.cat([mask, mask.new_ones(len(mask), h * w // 4)], 1),
        "txt_ids": torch.zeros(states.shape[1], 3, device=states.device),
        "img_ids": _image_ids(h, w, states.device),
    }


def _sd3_inputs(rows: FlowRows, h: int, w: int) -> dict[str, Any]:
    return {"encoder_hidden_states": rows.stacked("states"), "pooled_projections": rows.stacked("pooled")}


def _qwen_inputs(rows: FlowRows, h: int, w: int) -> dict[str, Any]:
    lengths = {len(states) for states in rows.listed("states")}
    mask = rows.mask("states") if len(lengths) > 1 else None
    return {
        "encoder_hidden_states": rows.padded("states"),
        "encoder_hidden_states_mask": None if mask is None else mask.long(),
        "img_shapes": [[(1, h // 2, w // 2)]] * len(rows.each),
    }


def _flux2_inputs(rows: FlowRows, h: int, w: int) -> dict[str, Any]:
    states = rows.stacked("states")
    count, tokens = states.shape[:2]
    text = torch.zeros(tokens, 4, device=states.device)
    text[:, 3] = torch.arange(tokens, device=states.device)
    image = torch.zeros(h * w, 4, device=states.device)
    image[:, 1:3] = _grid(h, w, states.device)
    return {
        "encoder_hidden_states": states,
        "txt_ids": text.expand(count, -1, -1),
        "img_ids": image.expand(count, -1, -1),
    }


def _z_image_inputs(rows: FlowRows, h: int, w: int) -> dict[str, Any]:
    return {"cap_feats": rows.listed("states")}


def _masked_inputs(rows: FlowRows, h: int, w: int) -> dict[str, Any]:
    return {"encoder_hidden_states": rows.stacked("states"), "encoder_attention_mask": rows.stacked("mask")}


def _krea2_inputs(rows: FlowRows, h: int, w: int) -> dict[str, Any]:
    states = rows.each[0]["states"]
    text = torch.zeros(len(states), 3, device=states.device)
    return {**_masked_inputs(rows, h, w), "position_ids": torch.cat([text, _image_ids(h, w, states.device)])}


def _auraflow_inputs(rows: FlowRows, h: int, w: int) -> dict[str, Any]:
    return {"encoder_hidden_states": rows.stacked("states")}


_UNGUIDED = {"do_classifier_free_guidance": False}
_FLUX2 = Recipe(
    _text("states"), _flux2_inputs, layout="flat", mu=flux2_shift, tokens=lambda c, h, w: h * w, pixels="normalized"
)
RECIPES: Mapping[str, Recipe] = {
    "z_image": Recipe(
        _text("states", **_UNGUIDED), _z_image_inputs, layout="listed", latents="x", time="t", inverted=True,
        mu=size_shift,
    ),
    "flux": Recipe(_text("states", "pooled", prompt_2=None), _flux_inputs, mu=size_shift),
    "flux2": _FLUX2,
    "flux2_klein": _FLUX2,
    "qwen_image": Recipe(_text("states"), _qwen_inputs, 1024, mu=size_shift, norm="token", pixels="per channel"),
    "krea2": Recipe(_text("states", "mask"), _krea2_inputs, mu=size_shift, pixels="per channel"),
    "chroma": Recipe(_text("states", "", "mask", **_UNGUIDED), _chroma_inputs, mu=size_shift),
    "sd3": Recipe(
        _text("states", "", "pooled", prompt_2=None, prompt_3=None, **_UNGUIDED), _sd3_inputs, 256,
        layout="plain", time_range=1000.0, mu=size_shift, own_sigmas=True,
    ),
    "lumina2": Recipe(
        _lumina2_text, _masked_inputs, 256, layout="plain", inverted=True, mu=size_shift, norm="row",
        # the pipeline takes the channels for the tokens: kept, since users see its pictures
        tokens=lambda c, h, w: c,
    ),
    "auraflow": Recipe(_text("states", **_UNGUIDED), _auraflow_inputs, 256, layout="plain", own_sigmas=True),
}  # fmt: skip
"""By the names of ``config.families``. Source: the pipelines of diffusers 0.42.1, which tests compare with."""
