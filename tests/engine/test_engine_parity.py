"""The step against LECO written down in a straight line, on a real UNet in float64.

The straight line shares nothing with the package: it merges the LoRA into the weights, walks by the DDIM formula
and works out goal and loss by itself. Only the noise, the pair and the stop are taken from the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from diffusers import UNet2DConditionModel
from models import SD_SCHEDULE, SmallDenoiser, randn, randomize, seeded, small_unet, step_of
from torch import Tensor

from leco_plugin.config.schema import PromptPair
from leco_plugin.core.walk import FreshWalks, PoolWalks, Walk
from leco_plugin.families.text import TensorTable
from leco_plugin.network.peft_lora import PeftLora

STEPS, RANK, ALPHA, GUIDANCE, GAMMA = 6, 3, 2.0, 3.0, 5.0
TEXT = {"": 1, "cat": 2, "dog": 3, "animal": 4}
PAIRS: Sequence[PromptPair] = [
    PromptPair(target="cat", positive="cat", resolution=(64, 64), batch_size=2, guidance_scale=1.5),
    PromptPair(
        target="animal",
        positive="cat",
        unconditional="dog",
        neutral="animal",
        action="enhance",
        multiplier=-1.0,
        resolution=(64, 64),
        guidance_scale=0.75,
    ),
    PromptPair(
        target="animal",
        positive="dog",
        unconditional="cat",
        neutral="",
        multiplier=1.5,
        weight=0.7,
        resolution=(64, 128),
        batch_size=2,
        guidance_scale=2.0,
    ),
]


class StraightLine:
    """LECO as the paper says it; ``lora`` holds the down and up weights of every layer, as leaves of the graph."""

    def __init__(self, unet: UNet2DConditionModel, lora: dict[str, tuple[Tensor, Tensor]], min_snr: bool) -> None:
        self.unet, self.lora, self.min_snr = unet, lora, min_snr
        # float32, as every trainer keeps it: near the picture 1 - alpha is small, and its rounding would show
        self.alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)
        self.timesteps = [k * (1000 // STEPS) + 1 for k in reversed(range(STEPS))]

    def predict(self, x: Tensor, t: int, prompt: str, m: float) -> Tensor:
        """W + m * alpha / r * up @ down in place of W."""
        weights = dict(self.unet.named_parameters())
        for name, (down, up) in self.lora.items():
            old = weights[f"{name}.weight"]
            weights[f"{name}.weight"] = old + m * ALPHA / RANK * (up.flatten(1) @ down.flatten(1)).reshape(old.shape)
        text = randn(1, 5, 8, seed=TEXT[prompt]).double().expand(len(x), -1, -1)
        return torch.func.functional_call(self.unet, weights, (x, torch.tensor(t), text)).sample

    def walk(self, noise: Tensor, asked: PromptPair, stop: int) -> Tensor:
        """Guided DDIM steps with the LoRA on."""
        x = noise.double()
        for k in range(stop):
            t = self.timesteps[k]
            with torch.no_grad():
                on = self.predict(x, t, asked.target, asked.multiplier)
                off = self.predict(x, t, asked.unconditional, asked.multiplier)
            eps = off + GUIDANCE * (on - off)
            now, later = self.alphas[t], self.alphas[t - 1000 // STEPS]
            x0 = (x - (1 - now) ** 0.5 * eps) / now**0.5
            x = later**0.5 * x0 + (1 - later) ** 0.5 * eps
        return x

    def loss(self, noise: Tensor, asked: PromptPair, stop: int) -> Tensor:
        x, t = self.walk(noise, asked, stop), self.timesteps[stop]
        with torch.no_grad():
            neutral = self.predict(x, t, asked.neutral, 0.0)
            concept = self.predict(x, t, asked.positive, 0.0) - self.predict(x, t, asked.unconditional, 0.0)
        sign = {"erase": -1, "enhance": 1}[asked.action]
        goal = neutral + sign * asked.guidance_scale * concept
        student = self.predict(x, t, asked.target, asked.multiplier)
        snr = (self.alphas[t] / (1 - self.alphas[t])).item()
        importance = min(snr, GAMMA) / snr if self.min_snr else 1.0
        return asked.weight * importance * ((student - goal) ** 2).mean()


class Run:
    """The package on a small UNet in float64, with the noise of every walk written down."""

    def __init__(self, *, min_snr: bool, prompt_pairs: Sequence[PromptPair]) -> None:
        self.pairs = prompt_pairs
        unet = small_unet(1).double()
        denoiser = SmallDenoiser(unet, SD_SCHEDULE)
        self.network = PeftLora(unet, rank=RANK, alpha=ALPHA, seed=0)
        unet.double()
        randomize(self.network.parameters(), std=0.15)
        denoiser.encode = lambda prompts: TensorTable(
            torch.cat([randn(1, 5, 8, seed=TEXT[prompt]) for prompt in prompts]).double()
        )
        gamma = GAMMA if min_snr else None
        self.step = step_of(
            denoiser, self.network, self.pairs, STEPS, denoise_guidance_scale=GUIDANCE, min_snr_gamma=gamma
        )
        self.noise: dict[int, tuple[Walk, Tensor]] = {}
        lora = {
            name: tuple(
                layer[part].detach().clone().requires_grad_() for part in ("lora_A.leco.weight", "lora_B.leco.weight")
            )
            for name, layer in _lora_layers(unet).items()
        }
        self.line = StraightLine(small_unet(1).double(), lora, min_snr)

    def begin(self, number: int) -> Walk:
        walk = self.step.begin(number, self.generator)
        self.noise[id(walk)] = (walk, walk.latents.clone())
        return walk

    def walks(self, kind: str, seed: int, per_step: int) -> FreshWalks | PoolWalks:
        self.generator = seeded(seed)
        common = {"steps": STEPS, "per_step": per_step, "generator": self.generator}
        if kind == "fresh":
            return FreshWalks(self.begin, self.step.guide, pairs=len(self.pairs), **common)
        size = max(3, per_step)
        return PoolWalks(self.begin, self.step.guide, self.step.leap, pairs=range(len(self.pairs)), size=size, **common)

    def compare(self, walks: FreshWalks | PoolWalks) -> list[tuple[int, int]]:
        """One step; returns the (pair, stop) that it was at."""
        watched, states = Watched(walks), []
        result = self.step.run(watched, torch.autograd.backward)
        losses = []
        for walk, stop in watched.drawn:
            states.append((walk.pair, stop))
            losses.append(self.line.loss(self.noise[id(walk)][1], self.pairs[walk.pair], stop))
        expected = torch.stack(losses).mean()
        expected.backward()
        torch.testing.assert_close(result.loss.double(), expected.detach(), rtol=1e-6, atol=0)
        leaves = [leaf for layer in self.line.lora.values() for leaf in layer]
        for parameter, leaf in zip(self.network.parameters(), leaves, strict=True):
            assert leaf.grad.norm() > 0
            assert (parameter.grad - leaf.grad).norm() < 1e-6 * leaf.grad.norm()
            parameter.grad = leaf.grad = None
        return states


class Watched:
    """Walks that note the state they were drawn at."""

    def __init__(self, walks: FreshWalks | PoolWalks) -> None:
        self.walks, self.moves_on, self.behind, self.moved = walks, walks.moves_on, walks.behind, walks.moved

    def draw(self) -> Sequence[Walk]:
        walks = self.walks.draw()
        self.drawn = [(walk, walk.position) for walk in walks]
        return walks


def _lora_layers(unet: UNet2DConditionModel) -> dict[str, dict[str, Tensor]]:
    """PEFT's own parameters by layer: down and up."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, parameter in unet.named_parameters():
        if ".lora_" in name:
            layer, part = name.split(".lora_")
            layers.setdefault(layer, {})["lora_" + part] = parameter
    return layers


@pytest.mark.parametrize("min_snr", [False, True], ids=["plain", "min_snr"])
@pytest.mark.parametrize("number", range(len(PAIRS)), ids=["erase", "enhance", "weighted"])
def test_a_fresh_step_is_leco_in_a_straight_line(number, min_snr):
    """Loss and every LoRA gradient to 1e-6, at every stop from 1 to N-1."""
    run = Run(min_snr=min_snr, prompt_pairs=[PAIRS[number]])
    walks, seen = run.walks("fresh", seed=number, per_step=1), set()
    for _ in range(6):
        seen |= {stop for _, stop in run.compare(walks)}
    assert len(seen) > 2


@pytest.mark.parametrize("kind", ["fresh", "pool"])
def test_a_step_over_several_walks_is_the_mean_of_straight_lines(kind):
    """Three pairs of different strength, size and batch in one step; in a pool, also after walks have moved on."""
    run = Run(min_snr=True, prompt_pairs=PAIRS)
    walks = run.walks(kind, seed=4, per_step=3)
    seen = {state for _ in range(4) for state in run.compare(walks)}
    assert len({number for number, _ in seen}) == 3
    assert len(seen) > 4


def test_the_straight_line_would_tell():
    """A LoRA at another strength gives another loss: the comparison is not blind."""
    run = Run(min_snr=False, prompt_pairs=[PAIRS[0]])
    noise = randn(2, 4, 8, 8)
    wrong = PAIRS[0].model_copy(update={"multiplier": 1.01})
    right, other = (run.line.loss(noise, asked, 2).item() for asked in (PAIRS[0], wrong))
    assert other != pytest.approx(right, rel=1e-4)
