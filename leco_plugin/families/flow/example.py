"""A prompt of the shapes that a family's transformer takes, for who wants to run one without its text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from leco_plugin.families.flow.rows import Text

_OWN_LENGTH = 64
"""Tokens of a prompt, with its template, where it is not padded."""
_UNPADDED, _MASKED = ("z_image", "qwen_image"), ("chroma", "krea2", "lumina2")
_CLIP_TOKENS = 77


def example_text(family: str, config: Mapping[str, Any], length: int, dtype: torch.dtype, device: torch.device) -> Text:
    """Its tensors, full of whatever is there; ``config`` is the transformer's, and ``length`` the tokens it reads."""
    tokens = min(length, _OWN_LENGTH) if family in _UNPADDED else length
    if family == "sd3":
        tokens += _CLIP_TOKENS
    width = next(config[name] for name in ("joint_attention_dim", "cap_feat_dim", "text_hidden_dim") if name in config)
    layers = [config["num_text_layers"]] if family == "krea2" else []
    text = {"states": torch.empty(tokens, *layers, width, dtype=dtype, device=device)}
    if "pooled_projection_dim" in config:
        text["pooled"] = torch.empty(config["pooled_projection_dim"], dtype=dtype, device=device)
    if family in _MASKED:
        # Lumina 2 asks how many tokens there are: its mask has to have numbers
        text["mask"] = torch.ones(tokens, dtype=torch.bool, device="cpu" if family == "lumina2" else device)
    return text
