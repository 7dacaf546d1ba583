"""Whether a model's rows are independent of one another, asked before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from leco_plugin.contracts import Denoiser, TextTable
from leco_plugin.errors import ModelError

SAME, SAME_IN_16_BITS = 1e-3, 3e-2
"""Relative difference up to which two predictions are the same; those of bf16 depend on the shape of a batch."""


def rows_differ(
    denoiser: Denoiser, table: TextTable, prompts: Sequence[int], shape: tuple[int, int, int], *, exact: bool
) -> str:
    """Ask for two prompts alone and in one call; gives how they differ, empty where they do not.

    ``exact``: whether the model computes in float32. Raises ModelError where it cannot predict for one prompt alone.
    """
    latents = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0)).to(denoiser.device)
    time, sizes = torch.full((1,), 500.0, device=denoiser.device), torch.zeros((1, 6), device=denoiser.device)
    with torch.no_grad():
        try:
            alone = torch.cat([denoiser.predict(latents, time, table.rows([prompt]), sizes) for prompt in prompts])
        # the host's model is somebody else's code
        except Exception as error:
            message = f"the model {denoiser.family} does not predict for a prompt: {type(error).__name__}: {error}"
            raise ModelError(message, fix="choose another model") from error
        count = len(prompts)
        repeated = [latents.expand(count, -1, -1, -1), time.expand(count), sizes.expand(count, -1)]
        try:
            together = denoiser.predict(repeated[0], repeated[1], table.rows(prompts), repeated[2])
        except Exception as error:  # noqa: BLE001 - as above; what it says is told
            return f"{type(error).__name__}: {error}"
    difference = (together - alone).float().flatten(1).norm(dim=1) / alone.float().flatten(1).norm(dim=1)
    worst = float(difference.max())
    return "" if worst <= (SAME if exact else SAME_IN_16_BITS) else f"they differ by {worst:.1%}"
