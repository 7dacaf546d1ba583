"""SDXL: a UNet conditioned on two text encoders, a pooled embedding and the sizes of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from leco_plugin.errors import ModelError
from leco_plugin.families.encode import Layer
from leco_plugin.families.sd import SDDenoiser
from leco_plugin.families.source import Family
from leco_plugin.families.text import TensorRows, TensorTable

_LAYER = Layer(2, normed=False)


class SDXLDenoiser(SDDenoiser):
    """SDXL behind the Denoiser contract. Source: arXiv:2307.01952, section 2."""

    family: Family = "sdxl"
    uses_size_conditioning: ClassVar[bool] = True

    def encode(self, prompts: Sequence[str]) -> TensorTable:
        """Last but one hidden states of both encoders side by side (P, tokens, width), and the second's pooled."""
        if self._options.clip_skip not in (None, _LAYER.number):
            raise ModelError(
                f"SDXL was trained on the last but one layer of its text encoders, not on clip_skip "
                f"{self._options.clip_skip}",
                fix="take clip_skip out",
            )
        encoded = self._encoded(prompts, _LAYER)
        if encoded.pooled is None:
            raise ModelError(f"the second text encoder of {self._source} has no projection", fix="get the model again")
        return TensorTable(torch.cat(encoded.hidden, dim=-1).to(self._dtype), encoded.pooled.to(self._dtype))

    def _added(self, rows: TensorRows, sizes: Tensor) -> dict[str, Any]:
        """The pooled text (R, width), and ``sizes`` (R, 6) as the UNet calls them."""
        return {"added_cond_kwargs": {"text_embeds": rows.pooled, "time_ids": sizes.to(self._dtype)}}
