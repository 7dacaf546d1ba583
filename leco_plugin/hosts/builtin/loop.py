"""The loop of the built-in host: accumulate, clip, schedule, save, stop, report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from leco_plugin.config.schema import TrainConfig
from leco_plugin.contracts import Network
from leco_plugin.core.state import Stateful, StateTree
from leco_plugin.core.walk import Walks
from leco_plugin.engine.progress import Progress
from leco_plugin.engine.report import Meter, Report
from leco_plugin.engine.step import LecoStep
from leco_plugin.engine.stop import stop_on_signal
from leco_plugin.errors import LecoError, TrainingError
from leco_plugin.events import Warned
from leco_plugin.hosts.builtin.guard import Guard
from leco_plugin.hosts.builtin.optim import actual_rate, averaged, make_optimizer, make_schedule
from leco_plugin.hosts.builtin.sampling import Sampling

REPORT_EVERY = 10
"""Optimizer steps between two reports on an accelerator, where each has to wait for the device."""


class Scaler(torch.amp.GradScaler):
    """torch's gradient scaler, for weights that are fp16 themselves too, as full_fp16 asks for."""

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        return super()._unscale_grads_(optimizer, inv_scale, found_inf, True)


@dataclass
class Loop:
    """Optimizer steps over one LECO step, until the last one or until it is asked to stop."""

    step: LecoStep
    walks: Walks
    network: Network
    train: TrainConfig
    device: torch.device
    report: Report
    progress: Progress
    save: Callable[[int], None]
    """Called with the number of steps done, after every one at which a file is due."""
    save_every: int | None = None
    save_state: Callable[[], None] | None = None
    """Called after such a file where a state is due with it."""
    stop_at: float | None = None
    """Fraction of the goal at which the run ends."""
    sampling: Sampling | None = field(default=None, init=False)
    """Draws pictures before the first step and between steps; it needs the loop itself."""
    done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._parameters = list(self.network.parameters())
        self._optimizer = make_optimizer(self.train, self._parameters)
        self._schedule = make_schedule(self.train, self._optimizer)
        # gradients of fp16 weights are fp16 whatever the model computes in
        narrow = any(parameter.dtype == torch.float16 for parameter in self._parameters)
        self._scaler = Scaler(self.device.type, enabled=narrow or self.train.dtype == "fp16")
        self._guard = Guard(self._optimizer, self.device)
        self._meter = Meter(self.device, self.train.steps, self.progress)
        self._saved_at = 0
        self._goal_is_reached = False
        self._said: set[str] = set()

    def run(self) -> bool:
        """Train; True if the user stopped it before its end.

        Raises TrainingError where loss or gradient are no longer finite, after the last good weights were saved.
        """
        report_every = 1 if self.device.type == "cpu" else REPORT_EVERY
        self._draw()
        self._meter.start()
        with stop_on_signal() as stop:
            while self.done < self.train.steps and not stop.asked and not self._goal_is_reached:
                scheduled = float(self._schedule.get_last_lr()[0])
                self._accumulate()
                last = self.done + 1 == self.train.steps
                due = bool(self.save_every) and (self.done + 1) % (self.save_every or 1) == 0 and not last
                event = None
                if due or last or (self.done + 1) % report_every == 0:
                    event = self._meter.sum_up(self.done + 1, actual_rate(self._optimizer, scheduled))
                    self._refuse_unless(math.isfinite(event.loss), f"the loss is {event.loss}", taken=self.done)
                self._update()
                if event or self._guard.waits:
                    self._refuse_unless(not self._guard.tripped, "the gradient is not finite", taken=self.done + 1)
                if event:
                    self.report(event)
                    self._warn_at_once()
                    self._goal_is_reached = self.stop_at is not None and self.progress.reached(self.stop_at)
                self._schedule.step()
                self.done += 1
                if due:
                    self._save(self.done)
                    if self.save_state:
                        self.save_state()
                if not last and not stop.asked:
                    self._draw()
            return stop.asked and self.done < self.train.steps and not self._goal_is_reached

    def averaged(self) -> AbstractContextManager[None]:
        """Block in which the network has the weights to be saved; see ``optim.averaged``."""
        return averaged(self._optimizer)

    def state(self) -> StateTree:
        """All that the further course of the run depends on; TrainingError where a part of it cannot be kept."""
        if not isinstance(self.walks, Stateful):
            raise TrainingError(f"{type(self.walks).__name__} cannot be stored", fix="switch save_state off")
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "done": self.done,
            "weights": [parameter.detach().float() for parameter in self._parameters],
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "walks": self.walks.state(),
            "meter": self._meter.state(),
            "random": random,
        }

    def restore(self, state: StateTree) -> None:
        """Go on from ``state``; TrainingError where the network or optimizer does not fit it."""
        stored = cast(Mapping[str, Any], state)
        weights = stored["weights"]
        if [weight.shape for weight in weights] != [parameter.shape for parameter in self._parameters]:
            raise TrainingError("the state is of a network of another shape", fix="start a new run without resume")
        with torch.no_grad():
            for parameter, weight in zip(self._parameters, weights, strict=True):
                parameter.copy_(weight)
        try:
            self._optimizer.load_state_dict(stored["optimizer"])
        except (ValueError, KeyError) as error:
            raise TrainingError(f"the state does not fit the optimizer: {error}", fix="start a new run") from error
        self._schedule.load_state_dict(stored["schedule"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(stored["scaler"])
        cast(Stateful, self.walks).restore(stored["walks"])
        self._meter.restore(stored["meter"])
        torch.set_rng_state(stored["random"]["cpu"])
        if self.device.type == "cuda" and "cuda" in stored["random"]:
            torch.cuda.set_rng_state(stored["random"]["cuda"], self.device)
        self.done = self._saved_at = stored["done"]

    def _draw(self) -> None:
        if self.sampling:
            with self._meter.paused():
                self.sampling.after(self.done)

    def _accumulate(self) -> None:
        """Gradients of one optimizer step: the mean over its pairs."""
        self._optimizer.zero_grad(set_to_none=True)
        for _ in range(self.train.gradient_accumulation):
            self._meter.add(self.step.run(self.walks, self._backward))

    def _backward(self, loss: Tensor) -> None:
        torch.autograd.backward(self._scaler.scale(loss / self.train.gradient_accumulation))

    def _update(self) -> None:
        self._scaler.unscale_(self._optimizer)
        # at infinity nothing is clipped, and the norm is known all the same
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.train.max_grad_norm or math.inf)
        if self._scaler.is_enabled():
            # leaves the step out by itself, and tries a smaller scale
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            self._guard.step(norm)

    def _warn_at_once(self) -> None:
        """Say early what makes a run worthless, so that nobody has to wait for its end to learn it."""
        for complaint in self.progress.unseen():
            if complaint not in self._said:
                self._said.add(complaint)
                self.report(Warned(complaint))

    def _save(self, done: int) -> None:
        self._saved_at = done
        self.save(done)

    def _refuse_unless(self, fine: bool, problem: str, *, taken: int) -> None:
        """Stop the run; ``taken`` steps were asked of the optimizer, of which the guard left out some."""
        if fine:
            return
        good = taken - self._guard.left_out
        if good > self._saved_at:
            with suppress(LecoError):
                self._save(good)
        raise TrainingError(
            f"{problem} at step {self.done + 1}; the last good LoRA is kept",
            fix="try a lower lr, dtype bf16 or fp32 instead of fp16, or a smaller guidance_scale",
        )
