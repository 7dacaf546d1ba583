"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Protocol, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from leco_plugin.config.optimizers import named_optimizer
from leco_plugin.config.schema import TrainConfig
from leco_plugin.core.state import StateTree
from leco_plugin.errors import ConfigError

_INVERSE_SQRT_TIMESCALE = 10_000
_FUSED = ("adamw", "adam", "sgd", "sgdnesterov")
"""Those of which torch takes a whole step in a few kernels on CUDA, which can leave it out, too."""


def find_optimizer(train: TrainConfig) -> type[torch.optim.Optimizer]:
    """The class that ``train.optimizer`` names; ConfigError where its package is missing or has no such class."""
    named = named_optimizer(train.optimizer)
    module, _, name = named.path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    # a package that is there but cannot be loaded raises anything: its own dependencies, a missing driver
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError)
        reason = f"needs the package {named.package}, which is not installed" if missing else f"cannot load: {error}"
        raise ConfigError(
            f"optimizer {train.optimizer} {reason}",
            fix=f"pip install {named.package}, or use another optimizer such as adamw",
        ) from error
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ConfigError(f"optimizer {train.optimizer}: {module} has no optimizer {name}", fix="check the spelling")
    return found


def make_optimizer(train: TrainConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that ``train.optimizer`` names, at the peak learning rate, ready to train.

    Raises ConfigError where it is not installed, or does not take ``train.optimizer_params``.
    """
    make = cast(Callable[..., torch.optim.Optimizer], find_optimizer(train))
    params: dict[str, object] = {**named_optimizer(train.optimizer).params, **train.optimizer_params}
    if train.optimizer in _FUSED and not {"fused", "foreach"} & params.keys():
        # foreach=False keeps CPU runs the same everywhere
        params |= {"fused": True} if parameters[0].device.type == "cuda" else {"foreach": False}
    # transformers' Adafactor works its rate out itself then, and takes none
    rate = None if params.get("relative_step") else train.learning_rate
    try:
        optimizer = make(parameters, lr=rate, **params)
    # whatever an optimizer does not like about its parameters, the user set them
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in train.optimizer_params.items()) or "no parameters"
        raise ConfigError(
            f"optimizer {train.optimizer} cannot be made with lr {train.learning_rate:g} and {given}: {error}",
            fix="correct optimizer_params",
        ) from error
    if averages(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def check_optimizer(train: TrainConfig) -> None:
    """Raise ConfigError where the optimizer or its schedule cannot be made; before anything heavy is loaded."""
    make_schedule(train, make_optimizer(train, [nn.Parameter(torch.zeros(1))]))


def actual_rate(optimizer: torch.optim.Optimizer, scheduled: float) -> float:
    """The learning rate that counts: with the factor that D-Adaptation and Prodigy have found so far."""
    return scheduled * float(optimizer.param_groups[0].get("d", 1.0))


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Block in which the weights are those to be saved: schedule-free optimizers train at others."""
    if not averages(optimizer):
        yield
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        # there and back again rounds: a run must not depend on how often it was saved
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


class Schedule(Protocol):
    """What sets the learning rate before every optimizer step."""

    def step(self) -> None:
        """One more optimizer step is done."""

    def get_last_lr(self) -> list[float]:
        """The rates of the next step."""

    def state_dict(self) -> dict[str, StateTree]:
        """All that its further course depends on."""

    def load_state_dict(self, state_dict: dict[str, StateTree]) -> None:
        """Go on from there."""


class OwnRate:
    """For an optimizer that no schedule may touch: reports what it was made with."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def step(self) -> None:
        """Nothing to do."""

    def get_last_lr(self) -> list[float]:
        """The rates as the optimizer has them; 0 where it works them out in its step."""
        return [float(group["lr"] or 0.0) for group in self._optimizer.param_groups]

    def state_dict(self) -> dict[str, StateTree]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, StateTree]) -> None:
        """Nothing."""


def make_schedule(train: TrainConfig, optimizer: torch.optim.Optimizer) -> Schedule:
    """The schedule over ``train.steps`` optimizer steps, warm-up included.

    Raises ConfigError where the optimizer takes no schedule, or the schedule cannot start at this rate.
    """
    if _schedules_itself(optimizer):
        if train.lr_scheduler != "constant" or train.lr_warmup_steps:
            raise ConfigError(
                f"optimizer {train.optimizer} sets its own learning rate, so lr_scheduler {train.lr_scheduler} with "
                f"{train.lr_warmup_steps:g} warm-up steps cannot be followed",
                fix="use lr_scheduler constant without lr_warmup_steps; see optimizer_params for its own warm-up",
            )
        return OwnRate(optimizer)
    warmup = train.in_steps(train.lr_warmup_steps)
    factor = _FACTORS.get(train.lr_scheduler)
    if factor is not None:
        return cast(Schedule, LambdaLR(optimizer, factor(train, warmup)))
    from diffusers.optimization import get_scheduler

    try:
        return cast(
            Schedule,
            get_scheduler(
                "constant_with_warmup" if train.lr_scheduler == "constant" and warmup else train.lr_scheduler,
                optimizer,
                num_warmup_steps=warmup,
                num_training_steps=train.steps,
                num_cycles=train.lr_scheduler_num_cycles,
                power=train.lr_scheduler_power,
            ),
        )
    except ValueError as error:
        raise ConfigError(f"lr_scheduler {train.lr_scheduler}: {error}", fix="use a higher lr") from None


def averages(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it has weights to train at and others to save, as schedule-free optimizers do."""
    return callable(getattr(optimizer, "eval", None)) and callable(getattr(optimizer, "train", None))


def _schedules_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Schedule-free optimizers average instead, and Adafactor's relative steps leave no rate to set."""
    return averages(optimizer) or optimizer.param_groups[0]["lr"] is None


def _cosine_with_min_lr(train: TrainConfig, warmup: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return _wave(train, (step - warmup) / max(1, train.steps - warmup))

    return factor


def _warmup_stable_decay(train: TrainConfig, warmup: int) -> Callable[[int], float]:
    decay = train.in_steps(train.lr_decay_steps)
    smallest = train.lr_scheduler_min_lr_ratio

    def factor(step: int) -> float:
        if step < warmup:
            return smallest + (1 - smallest) * step / warmup
        left = train.steps - step
        return 1.0 if left >= decay else _wave(train, 1 - left / decay)

    return factor


def _inverse_sqrt(train: TrainConfig, warmup: int) -> Callable[[int], float]:
    timescale = warmup or _INVERSE_SQRT_TIMESCALE

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return 1 / math.sqrt((step + timescale - warmup) / timescale)

    return factor


def _wave(train: TrainConfig, progress: float) -> float:
    """Half cosine waves from 1 to the smallest ratio, at ``progress`` 0..1."""
    smallest = train.lr_scheduler_min_lr_ratio
    return smallest + (1 - smallest) * 0.5 * (1 + math.cos(math.pi * train.lr_scheduler_num_cycles * progress))


_FACTORS: Mapping[str, Callable[[TrainConfig, int], Callable[[int], float]]] = {
    "cosine_with_min_lr": _cosine_with_min_lr,
    "warmup_stable_decay": _warmup_stable_decay,
    "inverse_sqrt": _inverse_sqrt,
}
