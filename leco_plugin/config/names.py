"""Names that options take, for whoever needs them without the schema."""

from __future__ import annotations

from typing import Literal, get_args

AUTO = "auto"
"""Among the prompts of preserve: those that the edit would hurt, found by the model."""
SamplerName = Literal["ddim", "ddpm", "euler", "euler_a", "dpmsolver++", "flowmatch"]
FLOW_SAMPLER: SamplerName = "flowmatch"
"""The one sampler of flow models, by ai-toolkit's name."""
SAMPLERS: tuple[SamplerName, ...] = tuple(name for name in get_args(SamplerName) if name != FLOW_SAMPLER)
"""Those of the others."""
SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")
"""Endings of files of weights; those after the first two are torch's pickles."""
