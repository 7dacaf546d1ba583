"""What LECO trains towards: the goal, the loss, and how much of the goal is reached."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from leco_plugin.contracts import PredictionType

Action = Literal["erase", "enhance"]
_LEAST_SNR = 1e-3


class Asks(Protocol):
    """What a pair says of its edit."""

    @property
    def guidance_scale(self) -> float:
        """Edit strength."""

    @property
    def action(self) -> Action:
        """Whether the concept is taken away or added."""


def precise(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or in float64 where it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def goal(neutral: Tensor, positive: Tensor, unconditional: Tensor, *, strength: float, action: Action) -> Tensor:
    """Prediction that moves ``neutral`` away from the concept (erase) or towards it (enhance).

    Shapes: all (B, C, h, w), any dtype; the result is float32 (float64 from float64) and carries no gradient.
    ``strength`` 0 leaves ``neutral`` as it is. Linear, so it holds for epsilon, v and flow alike.
    Source: ESD, arXiv:2303.07345.
    """
    sign = -1.0 if action == "erase" else 1.0
    # float32: in bf16 an edit below about 0.4 % of the prediction vanishes
    concept = precise(positive) - precise(unconditional)
    return (precise(neutral) + sign * strength * concept).detach()


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of every row: (R, C, h, w) twice -> (R,), float32 or wider."""
    return (precise(prediction) - precise(target)).square().flatten(1).mean(1)


def min_snr_weight(snr: Tensor, gamma: float, *, velocity: bool) -> Tensor:
    """Min-SNR-gamma weight of every row, (R,) -> (R,), for a loss on epsilon or on v.

    ``min(snr, gamma) / snr`` for epsilon, ``/ (snr + 1)`` for v-prediction; the noisiest rows weigh most.
    A row without any signal (snr 0) has the limit, 1 for epsilon. Source: arXiv:2303.09556, section 3.4.
    """
    clipped = snr.clamp(max=gamma)
    if velocity:
        return clipped / (snr + 1)
    return torch.where(snr > 0, clipped / snr.clamp(min=torch.finfo(snr.dtype).tiny), torch.ones_like(snr))


def picture_weight(snr: Tensor, prediction: PredictionType) -> Tensor:
    """What a squared change of the prediction counts in the predicted picture x0, (R,) -> (R,).

    With x = a x0 + s n: (s / a)^2 for epsilon, s^2 for v, and for flow the noise's share squared. Epsilon says nothing
    of a picture without any signal (snr 0); such a row has the weight of one with hardly any.
    """
    if prediction == "epsilon":
        return 1 / snr.clamp(min=_LEAST_SNR)
    return 1 / (1 + snr) if prediction == "v_prediction" else 1 / (1 + snr.sqrt()).square()


def concept_of(goal: Tensor, base: Tensor, positive: Tensor, unconditional: Tensor, pair: Asks) -> Tensor:
    """The change (B, C, h, w) of ``base``, the prediction for the target, that is one concept, in float32.

    What positive adds to unconditional, taken away for erase; without an edit strength, all of the way to the goal.
    """
    if pair.guidance_scale == 0:
        return goal - precise(base)
    concept = precise(positive) - precise(unconditional)
    return -concept if pair.action == "erase" else concept


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Mean product of two predictions, a () tensor without gradient; of one with itself, its mean square."""
    return (precise(first) * precise(second)).mean().detach()


def distance(prediction: Tensor, other: Tensor) -> Tensor:
    """Mean squared distance, a () tensor without gradient.

    The fraction of the goal that is reached is ``1 - distance(student, goal) / distance(base, goal)``, over sums of
    both from many steps; ``base`` is what the frozen model predicts for the pair's target prompt.
    """
    return squared_error(prediction, other).mean().detach()


def stride(latents: Tensor, prediction: Tensor, snr: Tensor, to: Tensor, kind: PredictionType) -> Tensor:
    """DDIM's step without noise (arXiv:2010.02502), however long: from one signal-to-noise ratio to another.

    ``latents`` and ``prediction`` are (B, C, h, w), the latents as the model is shown them; ``snr`` and ``to`` are ().
    Flow's latents have signal and noise add up to 1, the others' their squares.
    """
    x, said = precise(latents), precise(prediction)
    if kind == "flow":
        return x + (1 / (1 + to.sqrt()) - 1 / (1 + snr.sqrt())) * said
    signal, noise = (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
    if kind == "epsilon":
        picture, epsilon = (x - noise * said) / signal, said
    else:
        picture, epsilon = signal * x - noise * said, noise * x + signal * said
    return (to / (1 + to)).sqrt() * picture + (1 / (1 + to)).sqrt() * epsilon
