"""No step waits for the device: it runs on torch's meta device, which has no numbers that could be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from models import LineNetwork, Recorder, SmallDenoiser, pair, small_unet
from torch import Tensor, nn

from leco_plugin.config.optimizers import OPTIMIZERS
from leco_plugin.config.schema import LecoConfig, PromptPair, TrainConfig
from leco_plugin.engine.assemble import assemble
from leco_plugin.engine.progress import Progress
from leco_plugin.engine.report import Report
from leco_plugin.engine.step import Backward, StepResult, StepSettings
from leco_plugin.families.text import TensorTable
from leco_plugin.hosts.builtin.loop import REPORT_EVERY, Loop
from leco_plugin.network.dropout import Dropout
from leco_plugin.network.peft_lora import PeftLora

META = torch.device("meta")
INSTALLED = [name for name, one in OPTIMIZERS.items() if not one.package or find_spec(one.path.partition(".")[0])]
ASK_THEMSELVES = ("prodigy",)
"""Of the optimizers that can be tried here; D-Adaptation's do so, too."""


class Numberless(SmallDenoiser):
    """A model whose weights, latents and prompts are on the meta device."""

    def __init__(self) -> None:
        super().__init__(small_unet().to(META))
        self.device, self._alphas_cumprod = META, self._alphas_cumprod.to(META)

    def encode(self, prompts: list[str]) -> TensorTable:
        return TensorTable(super().encode(prompts).text.to(META))


class Slope:
    """A step whose loss is the sum of all weights."""

    def __init__(self, weight: nn.Parameter) -> None:
        self._weight = weight

    def run(self, walks: object, backward: Backward) -> StepResult:
        loss = self._weight.sum()
        backward(loss)
        return StepResult(loss.detach(), (), 1)


def make_loop(step: Any, walks: Any, network: Any, pairs: Sequence[PromptPair] = (), **train: Any) -> Loop:
    settings = TrainConfig(**{"steps": 20, **train})
    done = Report([]), Progress(pairs), lambda done: None, lambda done: None
    return Loop(step, walks, network, settings, META, *done)


def make_line_loop(**train: Any) -> Loop:
    network = LineNetwork(1.0)
    network.weight = nn.Parameter(torch.ones(4, 4, device=META))
    return make_loop(Slope(network.weight), None, network, **train)


@pytest.mark.parametrize("name", INSTALLED)
def test_no_optimizer_waits_for_the_device(name):
    """Clipping, schedule and guard included; but for those that look at their own numbers."""
    if OPTIMIZERS[name].package == "bitsandbytes":
        pytest.skip("trains on an accelerator only")
    scheduled = {} if name.endswith("schedulefree") else {"lr_scheduler": "cosine", "lr_warmup_steps": 3}
    loop = make_line_loop(optimizer=name, lr=1.0 if OPTIMIZERS[name].finds_its_rate else 1e-3, **scheduled)
    with pytest.raises(RuntimeError, match="meta") if name in ASK_THEMSELVES else nullcontext():
        for _ in range(3):
            loop._take_step(figures_due=False)


class Late:
    """Stands for figures that are never there unless they are waited for."""

    there = False

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def read(self) -> Tensor:
        return torch.zeros(self.tensor.shape)


def test_a_report_waits_only_where_it_is_due(monkeypatch):
    """Every tenth step sends for figures; they are told when they are there, at the latest with those of the end."""
    monkeypatch.setattr("leco_plugin.engine.report.Arriving", Late)
    loop, recorder = make_line_loop(), Recorder()
    loop.report = Report([recorder])
    loop.done = REPORT_EVERY - 1
    for _ in range(REPORT_EVERY):
        loop._take_step(figures_due=False)
    assert recorder.events == []
    loop._take_step(figures_due=True)
    assert [event.step for event in recorder.events] == [REPORT_EVERY, 2 * REPORT_EVERY]


def test_figures_that_are_there_are_told_in_the_next_step(monkeypatch):
    """And those that end a run are waited for: it ends at the same step when it is resumed."""
    monkeypatch.setattr("leco_plugin.engine.report.Arriving", Late)
    loop, recorder = make_line_loop(), Recorder()
    loop.report = Report([recorder])
    loop.done = REPORT_EVERY - 1
    loop._take_step(figures_due=False)
    monkeypatch.setattr(Late, "there", True)
    loop._take_step(figures_due=False)
    assert [event.step for event in recorder.events] == [REPORT_EVERY]
    monkeypatch.setattr(Late, "there", False)
    loop.done, loop.stop_at = 2 * REPORT_EVERY - 1, 0.5
    loop._take_step(figures_due=False)
    assert [event.step for event in recorder.events] == [REPORT_EVERY, 2 * REPORT_EVERY]


def test_no_step_waits_for_the_device(monkeypatch):
    """With everything in it that can be switched on; the first one fills the pool."""
    monkeypatch.setattr(torch, "autocast", lambda *which, **more: nullcontext())
    denoiser = Numberless()
    network = PeftLora(denoiser.module, rank=2, alpha=1.0, seed=0, dropout=Dropout(0.1, 0.1, 0.1))
    pairs = [pair(multiplier=sign) for sign in (1, -1)]
    training = assemble(
        pairs,
        LecoConfig(max_denoising_steps=4, pool_size=2, preserve=("4",)),
        StepSettings(noise_offset=0.1, min_snr_gamma=5.0, loss_type="huber"),
        denoiser=denoiser,
        network=network,
        sampler="ddim",
        generator=torch.Generator().manual_seed(0),
    )
    loop = make_loop(training.step, training.walks, network, pairs)
    for _ in range(2):
        loop._take_step(figures_due=False)
