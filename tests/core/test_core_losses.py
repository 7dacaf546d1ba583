"""Losses other than the squared error, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from leco_plugin.core.losses import huber_width, row_errors


def errors(kind, difference, width=None):
    prediction = torch.full((1, 1, 2, 2), float(difference))
    c = None if width is None else torch.tensor([width])
    return row_errors(prediction, torch.zeros_like(prediction), kind, c).item()


@pytest.mark.parametrize(
    ("kind", "difference", "expected"),
    [
        ("l2", 3.0, 9.0),
        ("l1", -3.0, 3.0),
        ("huber", 3.0, 2 * 4.0 * (5.0 - 4.0)),
        ("smooth_l1", 3.0, 2 * (5.0 - 4.0)),
    ],
)
def test_a_difference_of_three(kind, difference, expected):
    """At width 4, where the square root is 5."""
    assert errors(kind, difference, 4.0) == pytest.approx(expected)


def test_huber_is_square_below_its_width_and_straight_above():
    """0.01 counts 0.0001; at 1000 the slope is twice the width."""
    assert errors("huber", 0.01, 1.0) == pytest.approx(1e-4, rel=1e-2)
    assert errors("huber", 1001.0, 0.5) - errors("huber", 1000.0, 0.5) == pytest.approx(1.0, rel=1e-2)


def test_every_row_has_its_own_width():
    """Two rows of one batch."""
    found = row_errors(torch.full((2, 1, 1, 1), 3.0), torch.zeros(2, 1, 1, 1), "smooth_l1", torch.tensor([4.0, 1e-4]))
    assert found.tolist() == pytest.approx([2.0, 6.0], rel=1e-3)


def test_the_width_follows_the_timestep():
    """From 1 without noise to huber_c in pure noise, also where there is no signal at all."""
    timesteps, snr = torch.tensor([0, 500, 1000]), torch.tensor([1e12, 1.0, 0.0])
    assert huber_width(0.25, "constant", timesteps, snr).tolist() == [0.25] * 3
    assert huber_width(0.25, "exponential", timesteps, snr).tolist() == pytest.approx([1, 0.5, 0.25])
    assert huber_width(0.2, "snr", timesteps, snr).tolist() == pytest.approx([1, 0.2 + 0.8 / 4, 0.2], rel=1e-5)
