"""What the denoisers of all families share: prompts that were too long, and pictures of latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor


class BaseDenoiser:
    """Knows of every prompt what was cut off, and loads the VAE of ``_source`` when it is first asked for pictures."""

    device: torch.device
    _source: Any
    _cut: dict[str, str]
    """The end of each prompt that is longer than the text encoder reads."""
    _pixels = "shifted"
    """How latents differ from the VAE's; see ``decoded``."""

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Which of ``prompts`` are longer than the text encoder reads; known after ``encode``."""
        return [prompt for prompt in prompts if prompt in self._cut]

    def cut(self, prompt: str) -> str:
        """The end of a truncated prompt that is not read, as the tokenizer writes it."""
        return self._cut[prompt]

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in -1..1 of ``latents`` (B, C, h, w).

        The VAE is loaded when first asked, and is on the device only meanwhile: a run needs the memory.
        """
        if not hasattr(self, "_loaded_vae"):
            # float32: SD's VAE overflows in fp16
            self._loaded_vae = self._source.vae().eval().requires_grad_(False)
        vae = self._loaded_vae.to(self.device)
        try:
            return decoded(vae, latents.float(), self._pixels)
        except torch.cuda.OutOfMemoryError:
            # tile by tile from now on: slower, with seams that are hardly to be seen
            vae.enable_tiling()
            vae.enable_slicing()
            return decoded(vae, latents.float(), self._pixels)
        finally:
            vae.to("cpu")


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
