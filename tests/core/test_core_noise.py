"""Where walks begin."""

from __future__ import annotations

import pytest
import torch
from models import seeded

from leco_plugin.core.noise import child_generator, diffusion_snr, initial_latents


def latents(seed: int = 0, *, sigma: float = 1.0, offset: float = 0.0) -> torch.Tensor:
    return initial_latents(2, (4, 32, 32), sigma=sigma, offset=offset, generator=seeded(seed))


def test_a_seed_is_a_noise():
    """Equal seeds give equal noise, others another; samples of a batch differ."""
    assert torch.equal(latents(0), latents(0))
    assert not torch.equal(latents(0), latents(1))
    assert not torch.equal(latents(0)[0], latents(0)[1])


def test_the_noise_has_the_standard_deviation_of_the_sampler():
    """Sigma scales it, and is all that it does."""
    assert latents().std().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(latents(sigma=14.5), latents() * 14.5)


def test_the_offset_adds_one_number_to_every_channel():
    """Within a channel of a sample the noise is moved as a whole; between them by different numbers."""
    moved = latents(offset=0.1) - latents()
    assert moved.flatten(2).std(2).max().item() < 1e-6
    numbers = moved.mean((2, 3)).flatten()
    assert len({round(number, 5) for number in numbers.tolist()}) == 8
    assert 0.02 < numbers.std().item() < 0.3


def test_offset_zero_draws_nothing():
    """A run without offset has the noise that it had before there were offsets."""
    generator = seeded(0)
    initial_latents(2, (4, 32, 32), sigma=1.0, offset=0.0, generator=generator)
    expected = seeded(0)
    torch.randn((2, 4, 32, 32), generator=expected)
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=expected))


def test_children_are_repeatable_and_unlike_each_other():
    """Every child has a stream of its own, set by the parent's seed and its turn."""

    def numbers() -> list[list[float]]:
        parent = seeded(3)
        return [torch.rand(4, generator=child_generator(parent)).tolist() for _ in range(3)]

    first = numbers()
    assert first == numbers()
    assert len({tuple(child) for child in first}) == 3


def test_a_child_does_not_disturb_its_parent():
    """However much a child draws, the next child is the same."""
    one, other = seeded(3), seeded(3)
    torch.randn(1000, generator=child_generator(one))
    child_generator(other)
    assert torch.equal(torch.rand(4, generator=child_generator(one)), torch.rand(4, generator=child_generator(other)))


def test_the_snr_is_that_of_the_timestep():
    """Signal over noise: 0.8 kept is 4, 0.5 is 1, 0.2 is a quarter; float timesteps are rounded down."""
    alphas = torch.tensor([0.8, 0.5, 0.2])
    assert diffusion_snr(alphas, torch.tensor([0, 2, 1, 1])).tolist() == pytest.approx([4, 0.25, 1, 1])
    assert diffusion_snr(alphas, torch.tensor([1.9])).tolist() == pytest.approx([1])
