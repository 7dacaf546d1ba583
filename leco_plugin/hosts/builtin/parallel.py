"""One run in several processes, each with walks of its own; accelerate starts them and averages their gradients.

Whatever the processes do together begins with a meeting, where each says whether it is well and was asked to stop. So
an error in one ends all, wherever the others are, and all stop after the same step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar, cast

import torch
from torch import nn

from leco_plugin.config.schema import JobConfig
from leco_plugin.engine.report import Meter
from leco_plugin.engine.same_run import weights_hash
from leco_plugin.engine.stop import Stop
from leco_plugin.errors import ConfigError, LecoError, Problem, TrainingError, reason
from leco_plugin.launched import Place, place

_PATIENCE = timedelta(days=1)
"""For those who draw or load; one that has ended is noticed at once."""
Value = TypeVar("Value")


class Alone:
    """A run in one process: there is nobody to wait for."""

    rank, count = 0, 1
    failure: TrainingError | None = None
    """What another process failed with."""

    @property
    def first(self) -> bool:
        """Whether this process writes, prints and draws."""
        return self.rank == 0

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Wait until all are at the end of the block; LecoError where one failed that the others do not know of."""

    def placed(self, job: JobConfig) -> JobConfig:
        """``job`` on the device of this process."""
        return job

    def seed(self, seed: int) -> int:
        """The seed of this process's walks in a run of this ``seed``."""
        return seed

    def agreed(self, stop: Stop) -> Stop:
        """What is asked of all, where ``stop`` is what is asked of this process."""
        return stop

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make the gradients of ``parameters`` the mean over all processes."""

    def share(self, meter: Meter) -> None:
        """Let ``meter`` know what all have measured."""

    def collect(self, value: Value) -> list[Value]:
        """The ``value`` of every process, for the first one; nothing for others."""
        return [value]

    def hand(self, value: Value) -> Value:
        """The first one's ``value``, for all."""
        return value

    def refuse_unequal(self, what: str, value: object) -> None:
        """Raise TrainingError where ``value`` is not the same in all processes."""

    def refuse_apart(self, parameters: Sequence[nn.Parameter]) -> None:
        """Raise TrainingError where these weights are not the same in all processes, bit for bit."""


def join(device: str) -> Alone:
    """The run's processes, which this one is part of, as a block; ``device`` is what the job says.

    Raises ConfigError where they cannot train there.
    """
    own = place()
    return Together(own, _device(device, own)) if own.count > 1 else Alone()


class Together(Alone):
    """Several processes that train the same weights."""

    def __init__(self, own: Place, device: torch.device) -> None:
        # late: accelerate takes a second, and most runs have one process
        from accelerate import PartialState
        from torch import distributed

        self.rank, self.count, self._device = own.rank, own.count, device
        try:
            PartialState(cpu=device.type == "cpu")
            # meetings are held on the host: nothing waits for the device
            self._group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        # a network has many ways to fail, and each library its own errors for them
        except Exception as error:
            message = f"the {own.count} processes of the run do not find one another: {reason(error)}"
            raise ConfigError(message, fix="see that the first one's address and port can be reached") from error
        self._own, self._agreed = Stop(), Stop()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Meet for the last time; what a process other than the first one fails with is said by the first one."""
        # a user who does not want to wait, or all of them were stopped alike
        if isinstance(error, KeyboardInterrupt):
            return
        if error is None:
            self._meet(None)
        elif self.failure is None and self._tells(error) and isinstance(error, LecoError) and not self.first:
            raise TrainingError(()) from error

    def placed(self, job: JobConfig) -> JobConfig:
        """``job`` on the device of this process."""
        return job.model_copy(update={"device": str(self._device)})

    def seed(self, seed: int) -> int:
        """The first process has the walks that it would have alone; no other has those of a run of another seed."""
        if self.first:
            return seed
        digest = hashlib.sha256(f"walks of process {self.rank} at seed {seed}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def agreed(self, stop: Stop) -> Stop:
        """Asked of all from the meeting on that follows a signal to any."""
        self._own = stop
        return self._agreed

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make the gradients of ``parameters`` the mean over all processes, added up in float32."""
        from accelerate.utils import reduce

        absent = {number for number, parameter in enumerate(parameters) if parameter.grad is None}
        everywhere = set.intersection(*self._meet(absent))
        averaged = [parameter for number, parameter in enumerate(parameters) if number not in everywhere]
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in averaged]
        if not gradients:
            return
        with self._talking():
            mean = reduce(torch.cat([gradient.flatten().float() for gradient in gradients]), "mean")
        parts = mean.split([gradient.numel() for gradient in gradients])
        for parameter, gradient, part in zip(averaged, gradients, parts, strict=True):
            parameter.grad = gradient.copy_(part.view_as(gradient))

    def share(self, meter: Meter) -> None:
        """Let ``meter`` know what all have measured; in the order of the processes, so that all know the same."""
        meter.share(self._meet)

    def collect(self, value: Value) -> list[Value]:
        """The ``value`` of every process, for the first one; nothing for others. Tensors come to the CPU."""
        from accelerate.utils import send_to_device
        from torch import distributed

        self._meet(None)
        found: list[Any] | None = [None] * self.count if self.first else None
        with self._talking():
            distributed.gather_object(send_to_device(value, "cpu"), found, dst=0, group=self._group)
        return found or []

    def hand(self, value: Value) -> Value:
        """The first one's ``value``, for all."""
        from torch import distributed

        self._meet(None)
        box: list[Any] = [value if self.first else None]
        with self._talking():
            distributed.broadcast_object_list(box, src=0, group=self._group)
        return cast(Value, box[0])

    def refuse_unequal(self, what: str, value: object) -> None:
        """Raise TrainingError where ``value`` is not the same in all processes."""
        values = self._meet(value)
        other = next((number for number, one in enumerate(values) if one != values[0]), None)
        if other is not None:
            raise TrainingError(
                f"{what} of process {other + 1} of {self.count} is not that of the first",
                fix="see that all machines have the same files and versions",
            )

    def refuse_apart(self, parameters: Sequence[nn.Parameter]) -> None:
        """Raise TrainingError where these weights are not the same in all processes, bit for bit."""
        self.refuse_unequal("the LoRA", weights_hash(parameters))

    def _meet(self, value: Value, error: BaseException | None = None) -> list[Value]:
        """Wait for all, and give what each brings; TrainingError with what one of them fails with."""
        from torch import distributed

        if self.failure:
            raise self.failure
        said: list[Any] = [None] * self.count
        with self._talking():
            own = _Word(value, self._own.asked, _problems(error) if error else None)
            distributed.all_gather_object(said, own, group=self._group)
        words = cast("list[_Word]", said)
        self._agreed.asked = self._agreed.asked or any(word.stops for word in words)
        failed = next((number for number, word in enumerate(words) if word.problems is not None), None)
        if failed is not None and error is None:
            raise self._failed(self._of(failed, words[failed].problems or ()) if self.first else ())
        return [word.value for word in words]

    def _tells(self, error: BaseException) -> bool:
        """Whether the others could be told of ``error``."""
        try:
            self._meet(None, error)
        except TrainingError:
            return False
        return True

    def _of(self, number: int, problems: Sequence[Problem]) -> list[Problem]:
        return [replace(one, message=f"process {number + 1} of {self.count}: {one.message}") for one in problems]

    def _failed(self, problems: Sequence[Problem]) -> TrainingError:
        """The error that is raised now, and at whatever else is tried together."""
        self.failure = TrainingError(problems)
        return self.failure

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Block in which the end of a process is an error; where that is the first one, its launcher says it."""
        try:
            yield
        # gloo's and NCCL's own
        except RuntimeError as error:
            message = f"another of the {self.count} processes ended without a word ({reason(error)})"
            fix = "see what the system says of it; out of memory is the usual cause"
            raise self._failed([Problem(None, message, fix)] if self.first else ()) from error


@dataclass(frozen=True)
class _Word:
    """What a process says in a meeting."""

    value: Any
    stops: bool
    problems: tuple[Problem, ...] | None


def _problems(error: BaseException) -> tuple[Problem, ...]:
    if isinstance(error, LecoError):
        return error.problems
    return (Problem(None, f"{type(error).__name__}: {reason(error)}", "its own output says where"),)


def _device(asked: str, own: Place) -> torch.device:
    """Of this process, where a job asks for a device."""
    kind = asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        return torch.device("cpu")
    if kind != "cuda":
        raise ConfigError(
            f"device {asked} is for one process, and there are {own.count}", fix="set device: auto, cuda or cpu"
        )
    cards = torch.cuda.device_count()
    if own.local_count > cards:
        raise ConfigError(
            f"there are {own.local_count} processes on this machine, and {cards} CUDA cards",
            fix="start one process a card, or set device: cpu",
        )
    return torch.device("cuda", own.local_rank)
