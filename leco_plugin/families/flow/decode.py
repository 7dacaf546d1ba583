"""Latents of flow models as pictures: what their VAEs are given."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


@torch.no_grad()
def decoded(vae: Any, latents: Tensor, pixels: str) -> Tensor:
    """Pictures (B, 3, H, W) in -1..1 of ``latents`` (B, C, h, w).

    ``pixels`` says how the model's latents differ from the VAE's: ``shifted`` by a factor and an offset, ``per
    channel`` by a mean and a deviation, or ``normalized`` by a batch norm with 2 x 2 of them in the channels.
    """
    if pixels == "per channel":
        mean, std = (
            torch.tensor(vae.config[name], device=latents.device)[:, None, None]
            for name in ("latents_mean", "latents_std")
        )
        # a video of one picture
        return cast(Tensor, vae.decode((latents * std + mean).unsqueeze(2), return_dict=False)[0][:, :, 0])
    if pixels == "normalized":
        norm = vae.bn
        std = (norm.running_var + vae.config.batch_norm_eps).sqrt()
        latents = latents * std[:, None, None] + norm.running_mean[:, None, None]
        rows, channels, h, w = latents.shape
        cells = latents.reshape(rows, channels // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        latents = cells.reshape(rows, channels // 4, 2 * h, 2 * w)
    else:
        latents = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
    return cast(Tensor, vae.decode(latents, return_dict=False)[0])
