"""The goal, the loss and their weights, by numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from models import randn

from leco_plugin.core.objective import distance, goal, min_snr_weight, precise, squared_error, stride


def full(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full((1, 4, 2, 2), value, dtype=dtype)


@pytest.mark.parametrize(
    ("action", "strength", "expected"),
    [("erase", 1.0, 1.0), ("enhance", 1.0, 7.0), ("erase", 2.0, -2.0), ("enhance", 0.5, 5.5), ("erase", -1.0, 7.0)],
)
def test_the_goal_is_neutral_minus_or_plus_the_concept(action, strength, expected):
    """Neutral 4, and a concept of 5 - 2 = 3, taken away or added ``strength`` times."""
    assert goal(full(4), full(5), full(2), strength=strength, action=action).unique().tolist() == [expected]


def test_strength_zero_leaves_neutral_as_it_is():
    """Bit for bit, whatever the concept is."""
    neutral = randn(2, 4, 3, 5)
    positive, unconditional = randn(2, 4, 3, 5, seed=1), randn(2, 4, 3, 5, seed=2)
    assert torch.equal(goal(neutral, positive, unconditional, strength=0.0, action="erase"), neutral)


def test_the_goal_carries_no_gradient():
    """Not even when the predictions do."""
    given = [full(value).requires_grad_() for value in (4.0, 5.0, 2.0)]
    assert not goal(*given, strength=1.0, action="erase").requires_grad


def test_a_small_edit_survives_bf16_predictions():
    """1 - 0.001 * 1 is 0.999 in float32; in bf16 it would be 1, and nothing would be trained."""
    given = [full(value, torch.bfloat16) for value in (1.0, 1.0, 0.0)]
    edited = goal(*given, strength=0.001, action="erase")
    assert edited.dtype == torch.float32
    assert edited.unique().item() == pytest.approx(0.999)
    assert (torch.tensor(1.0).bfloat16() - torch.tensor(0.001).bfloat16()).item() == 1.0


def test_the_concept_itself_is_float32():
    """1 - 1/1024 between two bf16 predictions; in bf16 the difference would be 1."""
    positive, unconditional = full(1, torch.bfloat16), full(1 / 1024, torch.bfloat16)
    edited = goal(full(0), positive, unconditional, strength=1.0, action="enhance")
    assert edited.unique().item() == 1 - 1 / 1024


@pytest.mark.parametrize("target", [full(100.25), full(1 / 1024, torch.bfloat16)], ids=["float32", "bf16"])
def test_a_small_difference_survives_bf16_in_the_loss(target):
    """100 against 100.25, which is no bf16 number, and against 1/1024, which vanishes in their bf16 difference."""
    error = squared_error(full(100.0, torch.bfloat16), target)
    assert error.dtype == torch.float32
    assert error.tolist() == [pytest.approx((100 - target.max().item()) ** 2, rel=1e-6)]


def test_float64_stays_float64():
    """Precise means float32 or wider."""
    assert precise(full(1, torch.float64)).dtype == torch.float64
    assert goal(*(full(v, torch.float64) for v in (1, 2, 3)), strength=1.0, action="erase").dtype == torch.float64


def test_the_squared_error_is_one_number_a_row():
    """The mean over channels and pixels; rows are not mixed."""
    prediction, target = torch.zeros(3, 4, 2, 2), torch.zeros(3, 4, 2, 2)
    target[1] = 2.0
    prediction[2, 0] = 4.0
    assert squared_error(prediction, target).tolist() == [0.0, 4.0, 4.0]


def test_min_snr_for_epsilon():
    """min(snr, 5) / snr: all of 1 and of 5 counts, a quarter of 20."""
    weights = min_snr_weight(torch.tensor([1.0, 5.0, 20.0]), 5.0, velocity=False)
    assert weights.tolist() == [1.0, 1.0, 0.25]


def test_min_snr_for_velocity():
    """min(snr, 5) / (snr + 1): 5/6 at snr 5, 5/21 at snr 20, and half at snr 1."""
    weights = min_snr_weight(torch.tensor([1.0, 5.0, 20.0]), 5.0, velocity=True)
    assert weights.tolist() == pytest.approx([1 / 2, 5 / 6, 5 / 21])


def test_no_signal_has_the_weight_of_the_limit():
    """At snr 0 epsilon weighs 1, not nan, and v weighs 0; nothing in between is odd."""
    snr = torch.tensor([0.0, 1e-30, 1e-3])
    assert min_snr_weight(snr, 5.0, velocity=False).tolist() == [1.0, 1.0, 1.0]
    assert min_snr_weight(snr, 5.0, velocity=True).tolist() == pytest.approx([0.0, 0.0, 1e-3], rel=1e-2)


def test_the_noisiest_timestep_weighs_most():
    """Over SD's own schedule the weight never falls as the noise grows, and ends at 1."""
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)
    weights = min_snr_weight(alphas / (1 - alphas), 5.0, velocity=False)
    assert bool((weights.diff() >= 0).all())
    assert weights[-1].item() == 1.0
    assert weights[0].item() < 0.01


def test_a_distance_is_the_mean_square_and_has_no_gradient():
    """From 3 to 5, whatever the shape."""
    found = distance(full(3).requires_grad_(), full(5))
    assert (found.item(), found.shape, found.requires_grad) == (4.0, (), False)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 5, 10])
def test_a_stride_is_ddims_step(kind, steps):
    """However long: compared with diffusers' scheduler, of so many steps."""
    scheduler = DDIMScheduler(clip_sample=False, prediction_type=kind, beta_schedule="scaled_linear")
    scheduler.set_timesteps(steps)
    latents, said = randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    now, then = scheduler.timesteps[:2]
    expected = scheduler.step(said, now, latents, return_dict=False)[0]
    torch.testing.assert_close(stride(latents, said, snr[now], snr[then], kind), expected)


def test_a_stride_of_flow_is_eulers():
    """From sigma 0.9 to 0.25, along noise - picture."""
    latents, said = randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)
    snr = ((1 - torch.tensor([0.9, 0.25])) / torch.tensor([0.9, 0.25])) ** 2
    torch.testing.assert_close(stride(latents, said, snr[0], snr[1], "flow"), latents - 0.65 * said)
