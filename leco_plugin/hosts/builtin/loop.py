"""The loop of the built-in host: accumulate, clip, schedule, save, stop, report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
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
from leco_plugin.engine.stop import Stop
from leco_plugin.errors import LESS_MEMORY, LecoError, TrainingError, is_out_of_memory
from leco_plugin.events import Warned
from leco_plugin.hosts.builtin.guard import Guard
from leco_plugin.hosts.builtin.optim import actual_rate, averaged, averages, make_optimizer, make_schedule
from leco_plugin.hosts.builtin.parallel import Alone
from leco_plugin.hosts.builtin.sampling import Sampling

REPORT_EVERY = 10
"""Optimizer steps between two reports on an accelerator; their figures are read when they are there."""


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
    save: Callable[[int], Path | None]
    """Called with the number of steps done where files are due; gives the LoRA if it was written."""
    rescue: Callable[[int], Path | None]
    """Called with the number of steps done where the run breaks off; gives the LoRA if it was written."""
    save_every: int | None = None
    stop_at: float | None = None
    """Fraction of the goal at which the run ends."""
    crew: Alone = field(default_factory=Alone)
    """The processes of the run."""
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
        self._guard = Guard(self._optimizer, self.device, averages=averages(self._optimizer))
        self._meter = Meter(self.device, self.train.steps, self.progress)
        self._kept_at, self._kept = 0, ""
        self._goal_is_reached = False
        self._said: set[str] = set()

    def run(self, stop: Stop) -> bool:
        """Train until the end, or until ``stop`` asks; True if it did before the end.

        Raises TrainingError where loss or gradient are no longer finite or memory is short. Whatever ends it, what was
        learnt is saved before.
        """
        try:
            self._draw()
            self._meter.start()
            while self.done < self.train.steps and not stop.asked and not self._goal_is_reached:
                last = self.done + 1 == self.train.steps
                due = bool(self.save_every) and (self.done + 1) % (self.save_every or 1) == 0 and not last
                self._take_step(figures_due=due or last)
                if due:
                    self._save()
                if not last and not stop.asked:
                    self._draw()
            self._tell(wait=True)
            self.crew.share(self._meter)
        except _Broken as broken:
            fix = broken.fix or self._advice(broken.good)
            raise TrainingError(f"{broken}; {self._rescue(broken.good)}", fix=fix) from None
        except (Exception, SystemExit) as error:
            rescued = self._rescue(self.done)
            if is_out_of_memory(error) and not isinstance(error, LecoError):
                raise TrainingError(f"out of memory in step {self.done + 1}; {rescued}", fix=LESS_MEMORY) from error
            self.report(Warned(f"the run breaks off in step {self.done + 1}; {rescued}"))
            raise
        return stop.asked and self.done < self.train.steps and not self._goal_is_reached

    def _take_step(self, *, figures_due: bool) -> None:
        """One optimizer step, and what is said of it; figures are due more often than asked where they cost nothing."""
        scheduled = float(self._schedule.get_last_lr()[0])
        self._accumulate()
        due = figures_due or (self.done + 1) % (1 if self.device.type == "cpu" else REPORT_EVERY) == 0
        if due:
            self.crew.share(self._meter)
        rate = actual_rate(self._optimizer, scheduled)
        try:
            self._update()
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            problem = f"a change of the weights is too large for their precision at step {self.done + 1}"
            raise _Broken(problem, self.done, "try a lower lr") from error
        self._schedule.step()
        self.done += 1
        if due:
            self._meter.ask(self.done, rate, self._guard.bad)
        # where a figure ends the run, it must be known at once, or it would end elsewhere when it is resumed
        self._tell(wait=figures_due or self.stop_at is not None)

    def _tell(self, *, wait: bool) -> None:
        """Report what is known, or with ``wait`` all that was asked for."""
        for event, (bad,) in self._meter.answers(wait=wait):
            self._refuse_unless(math.isfinite(event.loss), f"the loss is {event.loss}", event.step)
            self._refuse_unless(not bad, "the gradient is not finite", event.step)
            self.report(event)
            self._warn_at_once()
            self._goal_is_reached = self.stop_at is not None and self.progress.reached(self.stop_at)

    def averaged(self) -> AbstractContextManager[None]:
        """Block in which the network has the weights to be saved; see ``optim.averaged``."""
        return averaged(self._optimizer)

    def state(self) -> dict[str, StateTree]:
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
        """Go on from ``state``; whatever the parts raise where they are not what this run wrote.

        After that, another state can be taken up all the same: every part is replaced.
        """
        stored = cast(Mapping[str, Any], state)
        weights = stored["weights"]
        if [weight.shape for weight in weights] != [parameter.shape for parameter in self._parameters]:
            raise ValueError("it is of a network of another shape")
        with torch.no_grad():
            for parameter, weight in zip(self._parameters, weights, strict=True):
                parameter.copy_(weight)
        self._optimizer.load_state_dict(stored["optimizer"])
        self._schedule.load_state_dict(stored["schedule"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(stored["scaler"])
        cast(Stateful, self.walks).restore(stored["walks"])
        self._meter.restore(stored["meter"])
        torch.set_rng_state(stored["random"]["cpu"])
        if self.device.type == "cuda" and "cuda" in stored["random"]:
            torch.cuda.set_rng_state(stored["random"]["cuda"], self.device)
        self.done = self._kept_at = int(stored["done"])
        self._kept = f"nothing was learnt since the state after step {self.done}"

    def _draw(self) -> None:
        if self.sampling:
            with self._meter.paused():
                self.sampling.after(self.done)

    def _accumulate(self) -> None:
        """Gradients of one optimizer step: the mean over its pairs."""
        self._optimizer.zero_grad(set_to_none=True)
        for _ in range(self.train.gradient_accumulation):
            self._meter.add(self.step.run(self.walks, self._backward))
        self.crew.average(self._parameters)

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

    def _save(self) -> None:
        self.crew.refuse_apart(self._parameters)
        path = self.save(self.done)
        if path:
            self._kept_at, self._kept = self.done, f"the LoRA after {self.done} steps is kept in {path}"

    def _refuse_unless(self, fine: bool, problem: str, step: int) -> None:
        """Break off for what ``step`` had; of the steps that were asked since, the guard left out all."""
        if not fine:
            left_out = 1 if self._scaler.is_enabled() else self._guard.left_out
            raise _Broken(f"{problem} at step {step}", self.done - left_out)

    def _rescue(self, good: int) -> str:
        """Save the LoRA as it is after ``good`` steps if there is no file of it yet; says where it is."""
        if good == self._kept_at:
            return self._kept or "no step was taken before it, so there is nothing to save"
        path = self.rescue(good)
        return f"the LoRA after {good} steps is saved in {path}" if path else "the LoRA could not be saved anywhere"

    def _advice(self, good: int) -> str:
        """What to try against numbers that are not finite; before the first step it is no matter of the rate."""
        start = "try a lower lr" if good else "see that the files of the model are whole"
        narrow = self.train.dtype == "fp16" or any(one.dtype == torch.float16 for one in self._parameters)
        return f"{start}, {'bf16 or fp32 instead of fp16, ' if narrow else ''}or a smaller guidance_scale"


def own_part(state: Mapping[str, StateTree]) -> dict[str, StateTree]:
    """What of a loop's ``state`` each of several processes has for itself."""
    return {name: state[name] for name in ("walks", "meter", "random")}


class _Broken(Exception):  # noqa: N818 - becomes an error once it is known what was saved
    """A number is not finite; ``good`` steps were taken before."""

    def __init__(self, problem: str, good: int, fix: str = "") -> None:
        super().__init__(problem)
        self.good, self.fix = good, fix
