"""Where walks begin, and how much signal a timestep holds."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def initial_latents(
    samples: int, shape: tuple[int, int, int], *, sigma: float, offset: float, generator: Generator
) -> Tensor:
    """Pure noise (B, C, h, w) on the CPU, with standard deviation ``sigma`` and noise offset ``offset``.

    Drawn on the CPU, so that a seed means the same noise on every device. The offset adds one normal number per
    sample and channel (https://www.crosslabs.org/blog/diffusion-with-offset-noise).
    """
    noise = torch.randn((samples, *shape), generator=generator)
    if offset:
        noise = noise + offset * torch.randn((samples, shape[0], 1, 1), generator=generator)
    return noise * sigma


def diffusion_snr(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """Signal-to-noise ratio (R,) of epsilon and v models at integer ``timesteps`` (R,), from (T,) cumulative alphas."""
    kept = alphas_cumprod.to(timesteps.device)[timesteps.long()].float()
    return kept / (1 - kept)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A ``tensor`` of the CPU on ``device``; a CUDA device is not waited for, since it can read pinned memory alone."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Arriving:
    """Numbers () or (n, ...) on their way to the CPU; a CUDA device is not waited for before they are read."""

    def __init__(self, tensor: Tensor) -> None:
        self._numbers, self._event = tensor.detach(), None
        if tensor.device.type == "cuda":
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._numbers = pinned.copy_(self._numbers, non_blocking=True)
            self._event = torch.cuda.current_stream(tensor.device).record_event()

    @property
    def there(self) -> bool:
        """Whether reading them takes no time."""
        return self._event is None or self._event.query()

    def read(self) -> Tensor:
        """On the CPU; waits where they are not there."""
        if self._event is not None:
            self._event.synchronize()
        return self._numbers.cpu()


def draw_index(count: int, generator: Generator) -> int:
    """One of 0..``count`` - 1."""
    return int(torch.randint(count, (), generator=generator))


def child_generator(parent: Generator) -> Generator:
    """A CPU generator of its own, seeded by one draw of ``parent``."""
    seed = int(torch.randint(0, 2**62, (), generator=parent))
    return torch.Generator().manual_seed(seed)
