"""LoRA files as the commands read them: tensors, metadata, and what LECO wrote into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import cast

from pydantic import TypeAdapter, ValidationError

from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.engine.measure import Course
from leco_plugin.errors import NetworkError
from leco_plugin.network.lora_read import LoraFile

_PAIRS = TypeAdapter(tuple[PromptPair, ...])
_TEXTS = TypeAdapter(tuple[str, ...])


class Lora(LoraFile):
    """One file, and what LECO wrote into it."""

    @cached_property
    def pairs(self) -> tuple[PromptPair, ...]:
        """The pairs that it was trained with; none where it is not LECO's. NetworkError where they are damaged."""
        try:
            return _PAIRS.validate_json(self.metadata.get("ss_leco_pairs", "[]"), strict=False)
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise NetworkError(f"{self.path}: its metadata ss_leco_pairs cannot be read: {what}", fix=_NAME) from None

    @property
    def preserve(self) -> tuple[str, ...]:
        """The prompts that its training preserved."""
        try:
            return _TEXTS.validate_json(self.metadata.get("ss_leco_preserve", "[]"))
        except ValidationError:
            raise NetworkError(f"{self.path}: its metadata ss_leco_preserve cannot be read", fix=_NAME) from None

    @property
    def model(self) -> str | None:
        """The model as its metadata names it, where that can be found again: a built-in one or a hub id."""
        name = self.metadata.get("ss_sd_model_name", "")
        return name if name.startswith("builtin:") or name.count("/") == 1 else None

    def course(self, samples: int) -> Course:
        """The walks of its training, as far as it tells."""
        default = LecoConfig()
        try:
            leco = LecoConfig(
                max_denoising_steps=int(self._said("max_denoising_steps", default.max_denoising_steps)),
                denoise_guidance_scale=float(self._said("denoise_guidance_scale", default.denoise_guidance_scale)),
            )
        except ValueError:
            leco = default
        sampler = str(self._said("noise_scheduler", Course.sampler))
        return Course(sampler, leco.max_denoising_steps, leco.denoise_guidance_scale, samples)

    def _said(self, name: str, default: float | str) -> float | str:
        return self.metadata.get(f"ss_leco_{name}", default)


_NAME = "name the prompts with --prompts"


def with_pairs(metadata: Mapping[str, str], pairs: tuple[PromptPair, ...]) -> dict[str, str]:
    """``metadata`` with other ``pairs``."""
    dumped = cast(list[object], _PAIRS.dump_python(pairs, mode="json"))
    return {**metadata, "ss_leco_pairs": json.dumps(dumped, ensure_ascii=False)}
