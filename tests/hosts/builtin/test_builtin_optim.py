"""Optimizers and schedules by name: that each trains, what it is made with, and what is refused."""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.optimization import get_scheduler
from models import CPU, LineNetwork, tiny_job
from pydantic import ValidationError
from torch import nn

from leco_plugin.config.optimizers import OPTIMIZERS
from leco_plugin.config.schema import TrainConfig
from leco_plugin.errors import ConfigError
from leco_plugin.hosts.builtin.guard import Guard
from leco_plugin.hosts.builtin.optim import averaged, check_optimizer, make_optimizer, make_schedule
from leco_plugin.hosts.builtin.process import LecoProcess
from leco_plugin.plugins import plugin_manager

STEPS = 12


def train(optimizer: torch.optim.Optimizer, schedule: Any, weight: nn.Parameter, steps: int) -> None:
    """Towards 3, where the squared distance is least."""
    for _ in range(steps):
        optimizer.zero_grad()
        ((weight - 3) ** 2).sum().backward()
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_is_made_by_its_name_and_trains(name):
    """One that is not installed is named with its package and the command that installs it."""
    rate = 1.0 if OPTIMIZERS[name].finds_its_rate else 0.1
    settings = TrainConfig(optimizer=name, lr=rate, steps=STEPS)
    weight = nn.Parameter(torch.ones(4))
    package = OPTIMIZERS[name].path.partition(".")[0]
    if find_spec(package) is None:
        with pytest.raises(ConfigError, match=f"{name} needs the package") as caught:
            make_optimizer(settings, [weight])
        assert f"pip install {OPTIMIZERS[name].package}" in caught.value.problems[0].fix
        return
    if package == "bitsandbytes":
        pytest.skip("trains on an accelerator only")
    optimizer = make_optimizer(settings, [weight])
    train(optimizer, make_schedule(settings, optimizer), weight, STEPS)
    with averaged(optimizer):
        assert weight.isfinite().all()
        assert (weight != 1).all()


def test_names_are_read_as_people_write_them():
    """AdamW is adamw; a class keeps its case."""
    assert TrainConfig(optimizer="AdamW").optimizer == "adamw"
    assert TrainConfig(optimizer="torch.optim.Adamax").optimizer == "torch.optim.Adamax"
    optimizer = make_optimizer(TrainConfig(optimizer="torch.optim.Adamax"), LineNetwork(1.0).parameters())
    assert type(optimizer) is torch.optim.Adamax


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.At.All", "needs the package nowhere, which is not installed"),
        ("torch.optim.Nothing", "has no optimizer Nothing"),
        ("torch.nn.Linear", "has no optimizer Linear"),
    ],
)
def test_a_class_that_is_no_optimizer_is_refused(name, message):
    """In one sentence."""
    with pytest.raises(ConfigError, match=message):
        check_optimizer(TrainConfig(optimizer=name))


def test_a_misspelt_name_is_guessed():
    """Before anything is loaded."""
    with pytest.raises(ValidationError, match="no optimizer is called 'adamw8bits'") as caught:
        TrainConfig(optimizer="adamw8bits")
    assert caught.value.errors()[0]["ctx"]["fix"] == "did you mean 'adamw8bit'?"


def test_a_missing_package_is_said_before_the_model_is_looked_for(tmp_path):
    """The model does not exist, and is not what the run complains of."""
    job = tiny_job(tmp_path, train={"optimizer": "nowhere.Best"}, model={"name_or_path": "no such model"})
    with pytest.raises(ConfigError, match="nowhere"):
        LecoProcess(job, plugin_manager(installed=False).hook).run()
    assert not (tmp_path / "tiny").exists()


def test_parameters_reach_the_optimizer():
    """As the job gives them; a list is a tuple of numbers."""
    settings = TrainConfig(optimizer_params={"weight_decay": 0.5, "betas": [0.8, 0.7]})
    (group,) = make_optimizer(settings, LineNetwork(1.0).parameters()).param_groups
    assert (group["weight_decay"], group["betas"]) == (0.5, (0.8, 0.7))


def test_parameters_that_it_does_not_take_are_refused():
    """With their names and the reason."""
    with pytest.raises(ConfigError, match=r"adamw cannot be made with .*momentum=0\.5"):
        check_optimizer(TrainConfig(optimizer_params={"momentum": 0.5}))


@pytest.mark.parametrize("params", [{"lr": 1.0}, {"betas": {"a": 1}}, {"betas": ["a"]}])
def test_parameters_that_mean_nothing_are_refused(params):
    """The learning rate has a place of its own; tables are nothing that an optimizer takes."""
    with pytest.raises(ValidationError):
        TrainConfig(optimizer_params=params)


def test_unet_lr_is_the_rate_of_all_that_is_trained():
    """`lr` only stands in for it."""
    optimizer = make_optimizer(TrainConfig(lr=0.1, unet_lr=0.02), LineNetwork(1.0).parameters())
    assert optimizer.param_groups[0]["lr"] == 0.02


def test_adafactor_takes_the_rate_that_is_set_and_its_own_where_asked():
    """transformers' defaults would ignore `lr`; with relative_step the rate is Adafactor's."""
    weight = nn.Parameter(torch.ones(4))
    assert make_optimizer(TrainConfig(optimizer="adafactor", lr=0.2), [weight]).param_groups[0]["lr"] == 0.2
    settings = TrainConfig(optimizer="adafactor", optimizer_params={"relative_step": True})
    own = make_optimizer(settings, [weight])
    assert own.param_groups[0]["lr"] is None
    train(own, make_schedule(settings, own), weight, 3)
    assert (weight > 1).all()
    with pytest.raises(ConfigError, match="sets its own learning rate"):
        check_optimizer(settings.model_copy(update={"lr_scheduler": "linear"}))


def rates(count: int = 10, **options: Any) -> list[float]:
    """The learning rate of every step, in parts of the peak."""
    settings = TrainConfig(steps=count, lr=0.5, **options)
    optimizer = make_optimizer(settings, LineNetwork(1.0).parameters())
    schedule = make_schedule(settings, optimizer)
    found = []
    for _ in range(count):
        found.append(schedule.get_last_lr()[0] / 0.5)
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 3}, {"num_warmup_steps": 3}),
        ({"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 2}, {"num_cycles": 2}),
        ({"lr_scheduler": "polynomial", "lr_scheduler_power": 2.0}, {"power": 2.0}),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 0.25}, {"num_warmup_steps": 2}),
    ],
)
def test_schedules_are_those_of_diffusers(options, same):
    """With every option handed on; a warm-up below 1 is that fraction of the steps, rounded down."""
    optimizer = torch.optim.SGD(LineNetwork(1.0).parameters(), lr=0.5)
    oracle = get_scheduler(
        options["lr_scheduler"], optimizer, **{"num_warmup_steps": 0, "num_training_steps": 10, **same}
    )
    expected = []
    for _ in range(10):
        expected.append(oracle.get_last_lr()[0] / 0.5)
        optimizer.step()
        oracle.step()
    assert rates(**options) == pytest.approx(expected)


def test_the_schedules_that_diffusers_lacks():
    """Worked out by hand: a cosine that ends at a fifth, a plateau that falls at the end, 1 / sqrt(step)."""
    ends = rates(lr_scheduler="cosine_with_min_lr", lr_scheduler_min_lr_ratio=0.2)
    assert ends[0] == 1.0
    assert ends[5] == pytest.approx(0.6)
    assert ends[9] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(0.9 * math.pi)))
    falls = rates(lr_scheduler="warmup_stable_decay", lr_warmup_steps=2, lr_decay_steps=0.4)
    assert falls == pytest.approx([0, 0.5, 1, 1, 1, 1, 1, 0.8535534, 0.5, 0.1464466])
    root = rates(lr_scheduler="inverse_sqrt", lr_warmup_steps=4)
    assert root == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1, (4 / 5) ** 0.5, (4 / 6) ** 0.5, (4 / 7) ** 0.5, 0.5**0.5, 2 / 3]
    )


@pytest.mark.parametrize(
    "options",
    [
        {"lr_scheduler_power": 2.0},
        {"lr_scheduler": "linear", "lr_scheduler_min_lr_ratio": 0.1},
        {"lr_scheduler": "cosine", "lr_scheduler_num_cycles": 3},
        {"lr_decay_steps": 5},
        {"huber_c": 0.3},
        {"huber_schedule": "constant"},
    ],
)
def test_an_option_that_nothing_would_read_is_refused(options):
    """It names what it belongs to."""
    with pytest.raises(ValidationError, match="means nothing to") as caught:
        TrainConfig(**options)
    assert next(reversed(options)) in caught.value.errors()[0]["ctx"]["fix"]


def test_a_warmup_is_whole_steps_or_a_fraction():
    """2.5 steps are neither."""
    assert TrainConfig(lr_warmup_steps=100.0).lr_warmup_steps == 100
    with pytest.raises(ValidationError, match=r"must be whole, or below 1, not 2\.5"):
        TrainConfig(lr_warmup_steps=2.5)


class Averaging(torch.optim.SGD):
    """Trains at other weights than it keeps, as schedule-free optimizers do, and rounds on the way."""

    training = False

    def eval(self) -> None:
        assert self.training
        self.training = False
        for weight in self.param_groups[0]["params"]:
            weight.data.add_(10.1)

    def train(self) -> None:
        for weight in self.param_groups[0]["params"] if self.steps else []:
            weight.data.sub_(10.1)
        self.training = True

    @property
    def steps(self) -> bool:
        """Whether it was in use before."""
        seen, self.seen = getattr(self, "seen", False), True
        return seen


def test_saved_weights_are_the_averaged_ones_and_training_goes_on_exactly():
    """What the optimizer rounds on the way there and back is put right."""
    weight = nn.Parameter(torch.tensor([1e-7, 0.3]))
    before = weight.detach().clone()
    optimizer = Averaging([weight], lr=1.0)
    optimizer.train()
    with averaged(optimizer):
        assert weight[1].item() == pytest.approx(10.4)
    assert torch.equal(weight.detach(), before)


def test_a_run_saves_the_averaged_weights(tmp_path, monkeypatch):
    """At every file, the final one included; a schedule-free optimizer takes no schedule."""
    from safetensors.torch import load_file

    monkeypatch.setitem(sys.modules, "averaging", sys.modules[__name__])
    options = {"optimizer": "averaging.Averaging", "lr": 0.0, "steps": 2}
    job = tiny_job(tmp_path, train=options, save={"save_every": 1, "dtype": "float32"})
    outcome = LecoProcess(job, plugin_manager(installed=False).hook).run()
    files = [outcome.path, Path(outcome.path).with_name("tiny-step00000001.safetensors")]
    for file in files:
        up = {key: value for key, value in load_file(file).items() if key.endswith("lora_up.weight")}
        assert all(torch.equal(value, torch.full_like(value, 10.1)) for value in up.values())
    with pytest.raises(ConfigError, match="sets its own learning rate"):
        check_optimizer(TrainConfig(optimizer="averaging.Averaging", lr_scheduler="cosine"))


@pytest.mark.parametrize("fused", [False, True])
def test_the_guard_takes_no_step_from_the_first_bad_gradient_on(fused):
    """Two good steps, a bad one, and one that would be good again: the weight is that of the two.

    A fused optimizer is told through a tensor, what another one did is taken back; neither is asked about it.
    """
    weight = nn.Parameter(torch.tensor(0.0))
    guard = Guard(torch.optim.SGD([weight], lr=1.0, fused=fused), CPU)
    for gradient in (-1.0, -1.0, math.nan, -1.0):
        weight.grad = torch.tensor(gradient)
        guard.step(weight.grad.abs())
    assert weight.item() == 2.0
    assert guard.bad
    assert guard.left_out == 2


@pytest.mark.skipif(not find_spec("schedulefree"), reason="schedulefree is not installed")
def test_a_bad_gradient_does_not_reach_the_averages_that_are_saved():
    """Weights, and what a schedule-free optimizer keeps beside them, are those after the good steps."""
    found = []
    for gradients in ([-1.0, -0.5], [-1.0, -0.5, math.inf, -1.0]):
        weight = nn.Parameter(torch.zeros(3))
        optimizer = make_optimizer(TrainConfig(optimizer="adamwschedulefree", lr=0.1), [weight])
        guard = Guard(optimizer, CPU, averages=True)
        for gradient in gradients:
            weight.grad = torch.full((3,), gradient)
            guard.step(weight.grad.norm())
        with averaged(optimizer):
            found.append(weight.detach().clone())
    assert torch.equal(*found)
    assert (found[0] > 0).all()
