"""The loop: what is accumulated, clipped and scheduled, when it stops, and what it reports."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CPU, LineModel, LineNetwork, Recorder, line_step, pair, seeded
from torch import Tensor

from leco_plugin.config.schema import TrainConfig
from leco_plugin.core.walk import Walk
from leco_plugin.engine.progress import ENOUGH, Progress
from leco_plugin.engine.report import Meter, Report
from leco_plugin.engine.step import LecoStep, StepResult
from leco_plugin.engine.stop import stop_on_signal
from leco_plugin.errors import TrainingError
from leco_plugin.events import Event, Saved, StepDone, Warned
from leco_plugin.hosts.builtin.loop import Loop
from leco_plugin.hosts.builtin.optim import make_optimizer, make_schedule


class TurnWalks:
    """Walks of the pairs in turn."""

    moves_on = False
    position = 0

    def __init__(self, step: LecoStep, pairs: int, before: Callable[[int], None] = lambda turn: None) -> None:
        self.step, self.pairs, self.before, self.turn = step, pairs, before, 0

    def draw(self) -> Sequence[Walk]:
        self.before(self.turn)
        self.turn += 1
        walk = self.step.begin((self.turn - 1) % self.pairs, seeded(0))
        # measured at positions 1, 9, 17, ...
        walk.position, walk.turn = self.position, 7
        return [walk]

    def behind(self) -> Sequence[Walk]:
        return ()

    def moved(self, walks: Sequence[Walk], predictions: Sequence[Tensor]) -> None:
        raise AssertionError("these walks stay")


class Run:
    """A loop over LineModel that keeps gradients, files and events."""

    def __init__(
        self,
        *values: float,
        lora: float = 0.0,
        every: int | None = None,
        stop_at: float | None = None,
        strength: float = 0.0,
        before: Callable[[int], None] = lambda turn: None,
        **train: Any,
    ) -> None:
        """Pairs whose targets are ``values`` and whose goal is 0."""
        self.model = LineModel(lora=lora)
        pairs = [pair(target=value, positive=0, guidance_scale=strength) for value in values]
        step = line_step(self.model, *pairs)
        self.recorder, self.saved, self.gradients = Recorder(), [], []
        self.walks = TurnWalks(step, len(values), before)
        settings = TrainConfig(**{"steps": 1, "lr": 0.1, "max_grad_norm": 0.0, **train})
        report = Report([self.recorder])
        self.progress = Progress(pairs)
        self.rescued: list[int] = []
        self.loop = Loop(
            step, self.walks, self.model.network, settings, CPU, report, self.progress,
            self.save, self.rescue, every, stop_at=stop_at,
        )  # fmt: skip

    def save(self, step: int) -> Path:
        self.saved.append(step)
        return Path(f"file-{step}")

    def rescue(self, step: int) -> Path:
        self.rescued.append(step)
        return Path(f"rescued-{step}")

    def run(self) -> bool:
        with stop_on_signal() as stop:
            stopped = self.loop.run(stop)
        self.gradient = self.model.network.weight.grad
        return stopped

    @property
    def steps(self) -> list[StepDone]:
        return self.recorder.of(StepDone)


def test_all_micro_batches_count():
    """Targets 1, 2 and 6 give gradients 2, 4 and 12; three accumulated ones give their mean, 6."""
    run = Run(1, 2, 6, gradient_accumulation=3)
    run.run()
    assert run.gradient.item() == pytest.approx(6.0)
    assert run.steps[0].loss == pytest.approx((1 + 4 + 36) / 3)
    assert run.steps[0].samples == 3


def test_gradients_are_not_carried_into_the_next_step():
    """With lr 0 the second step has the gradient of the second pair alone."""
    run = Run(1, 6, steps=2, lr=0.0)
    run.run()
    assert run.gradient.item() == 12.0


@pytest.mark.parametrize(("norm", "expected"), [(1.0, 1.0), (100.0, 12.0), (0.0, 12.0)])
def test_gradients_are_clipped_to_the_norm(norm, expected):
    """A gradient of 12 is cut to 1, left below 100, and 0 switches clipping off."""
    run = Run(6, max_grad_norm=norm)
    run.run()
    assert run.gradient.item() == pytest.approx(expected, rel=1e-5)


def test_training_goes_down_to_the_goal():
    """AdamW takes the LoRA to -3, where the target 3 becomes 0."""
    run = Run(3, steps=300, lr=0.05)
    assert run.run() is False
    assert run.model.network.weight.item() == pytest.approx(-3.0, abs=0.2)
    assert run.steps[-1].loss < 0.05 < 5 < run.steps[0].loss


@pytest.mark.parametrize(
    ("scheduler", "warmup", "expected"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("constant", 2, [0, 0.5, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("linear", 2, [0, 0.5, 1, 0.5]),
        ("cosine", 0, [1, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_the_learning_rate_follows_its_schedule(scheduler, warmup, expected):
    """Over four steps, in parts of the peak; what is reported is what the step was taken with."""
    run = Run(1, steps=4, lr=0.2, lr_scheduler=scheduler, lr_warmup_steps=warmup)
    run.run()
    assert [step.learning_rate / 0.2 for step in run.steps] == pytest.approx(expected)


def test_the_first_warmup_step_moves_nothing():
    """Its learning rate is 0."""
    run = Run(1, steps=1, lr=0.2, lr_warmup_steps=2)
    run.run()
    assert run.model.network.weight.item() == 0.0


def test_the_optimizer_and_its_schedule_are_the_ones_asked_for():
    """AdamW at the peak rate over the network's own parameters, cut by the schedule."""
    train = TrainConfig(steps=4, lr=0.3, lr_scheduler="linear")
    parameters = LineNetwork(1.0).parameters()
    optimizer = make_optimizer(train, parameters)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.param_groups[0]["params"] == parameters
    assert make_schedule(train, optimizer).get_last_lr() == [0.3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_leaves_the_last_good_step(bad):
    """The step that goes wrong is the second: one is saved and reported, and nothing is to be rescued beside it."""
    run = Run(1, steps=5, every=1)

    def spoil(turn: int) -> None:
        if turn == 1:
            run.model.network.weight.data.fill_(bad)

    run.walks.before = spoil
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step 2") as caught:
        run.run()
    assert caught.value.problems[0].fix
    assert run.saved == [1]
    assert [step.step for step in run.steps] == [1]
    assert (run.loop._guard.left_out, run.rescued) == (1, [])


def test_files_are_saved_when_due_but_not_at_the_end():
    """Every second of six steps; the last one is the final file, which is not the loop's."""
    run = Run(1, steps=6, every=2)
    run.run()
    assert run.saved == [2, 4]


def test_every_step_is_reported():
    """On the CPU nothing waits for a device: one event a step, numbered from 1."""
    run = Run(1, steps=3)
    run.run()
    assert [(step.step, step.steps) for step in run.steps] == [(1, 3), (2, 3), (3, 3)]
    assert all(step.memory_bytes > 2**20 for step in run.steps)
    assert all(step.seconds > 0 for step in run.steps)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_the_step_and_stops(number):
    """The step under way counts; run() says that it was stopped, and the handlers are back."""
    before = signal.getsignal(number)
    run = Run(1, steps=50, before=lambda turn: os.kill(os.getpid(), number) if turn == 2 else None)
    assert run.run() is True
    assert run.loop.done == 3
    assert len(run.steps) == 3
    assert signal.getsignal(number) is before


def test_a_signal_in_the_last_step_stops_nothing():
    """There is nothing left to leave out."""
    run = Run(1, steps=3, before=lambda turn: os.kill(os.getpid(), signal.SIGINT) if turn == 2 else None)
    assert run.run() is False


def test_the_second_signal_interrupts_at_once():
    """For those who cannot wait for the step."""
    with stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread_signals_are_left_alone():
    """Only the main thread may set handlers; a host that trains in another one stops by itself."""
    seen: list[Any] = []

    def train() -> None:
        with stop_on_signal() as stop:
            seen.append(stop.asked)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGINT) is before


def result(loss: float, *, samples: int = 1) -> StepResult:
    return StepResult(torch.tensor(loss), (), samples)


def test_the_meter_means_losses_and_adds_samples():
    """Since the last event only."""
    meter = Meter(CPU, 10, Progress([]))
    meter.add(result(1.0, samples=2))
    meter.add(result(5.0, samples=3))
    event = meter.sum_up(4, 0.5)
    assert (event.step, event.steps, event.loss, event.learning_rate, event.samples) == (4, 10, 3.0, 0.5, 5)
    assert (event.goal_reached, event.effect, event.drift) == (None, None, None)
    meter.add(result(7.0))
    assert meter.sum_up(5, 0.5).loss == 7.0


def test_a_run_stops_when_its_effect_is_large_enough():
    """Not before there are measurements enough, and it is no interruption."""
    line = Run(2.0, lora=-1.9, steps=100, stop_at=0.9, lr=1e-9)
    # where the frozen model is asked for the target
    line.walks.position = 1
    assert not line.run()
    assert line.loop.done == ENOUGH
    slow = Run(2.0, lora=-1.0, steps=30, stop_at=0.9, lr=1e-9)
    assert not slow.run()
    assert slow.loop.done == 30


class Failing:
    """An observer that raises, from a certain event on."""

    def __init__(self, after: int = 0) -> None:
        self.left = after
        self.seen = 0

    def notify(self, event: Event) -> None:
        self.seen += 1
        if self.left == 0:
            raise ValueError("disk full")
        self.left -= 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failing)

    __hash__ = None  # type: ignore[assignment]


SAVED = Saved(Path("x"), 1, final=True)


def test_an_observer_that_raises_is_named_and_dropped():
    """The others hear of it and get the event; it is never called again."""
    first, failing, last = Recorder(), Failing(), Recorder()
    report = Report([first, failing, last])
    report(SAVED)
    report(SAVED)
    assert failing.seen == 1
    for recorder in (first, last):
        assert len(recorder.of(Saved)) == 2
        (warning,) = recorder.of(Warned)
        assert "Failing" in warning.message
        assert "disk full" in warning.message


@pytest.mark.parametrize("after", [0, 1])
def test_several_observers_may_fail_at_once(after):
    """Also one that fails while it is told of the other, and one that says it equals another."""
    recorder = Recorder()
    failing = [Failing(after), Failing(), Failing(after)]
    report = Report([*failing, recorder])
    for _ in range(3):
        report(SAVED)
    assert len(recorder.of(Saved)) == 3
    assert len(recorder.of(Warned)) == 3
    assert [one.seen for one in failing] == [after + 1, 1, after + 1]


def test_training_goes_on_without_the_observer():
    """All steps are done and reported to the one that is left."""
    run = Run(1, steps=4)
    run.loop.report = Report([Failing(after=1), run.recorder])
    assert run.run() is False
    assert len(run.steps) == 4
    assert len(run.recorder.of(Warned)) == 1


@pytest.mark.parametrize(("kind", "expected"), [("l2", 9.0), ("l1", 3.0), ("smooth_l1", 2 * (10**0.5 - 1))])
def test_the_step_trains_with_the_loss_that_is_asked_for(kind, expected):
    """A prediction of 3 and a goal of 0; the width is 1 in a model without noise."""
    model = LineModel()
    model.snr_by_timestep = {40: 1e12}
    step = line_step(model, pair(target=3, positive=0), loss_type=kind)
    found = step.run(TurnWalks(step, 1), torch.autograd.backward)
    assert found.loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_moves_nothing(norm):
    """The loss is finite; the step is not taken, and what was learnt before it is saved."""
    run = Run(1, steps=5, max_grad_norm=norm)
    weight = run.model.network.weight

    def spoil(turn: int) -> None:
        if turn == 2:
            run.before = weight.item()
            weight.register_hook(lambda gradient: gradient * float("inf"))

    run.walks.before = spoil
    with pytest.raises(
        TrainingError, match="the gradient is not finite at step 3; the LoRA after 2 steps is saved in rescued-2"
    ):
        run.run()
    assert weight.item() == run.before
    assert (run.saved, run.rescued) == ([], [2])


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_fp16_weights_train_with_a_scaled_loss(dtype):
    """full_fp16: torch's own scaler refuses gradients that are fp16; the first scales are too large for them."""
    run = Run(3, steps=12, lr=0.5, dtype=dtype)
    run.model.network.weight.data = run.model.network.weight.data.half()
    run.loop.__post_init__()
    run.run()
    assert run.model.network.weight.dtype == torch.float16
    assert -6 < run.model.network.weight.item() < -1
    assert run.loop._scaler.is_enabled()


def test_a_concept_that_is_nothing_is_said_at_once_and_once():
    """Positive and unconditional are both 0 here: nobody shall wait for the end of the run to learn it."""
    line = Run(2.0, steps=5, strength=1.0)
    line.walks.position = 1
    line.run()
    (warning,) = line.recorder.of(Warned)
    assert "nothing to train" in warning.message
    assert line.recorder.events.index(warning) == 1
