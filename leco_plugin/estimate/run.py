"""The estimate of one run, and what makes it fit a card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from leco_plugin.config.schema import JobConfig
from leco_plugin.errors import LecoError
from leco_plugin.estimate.steps import Call, Steps, count_steps
from leco_plugin.estimate.trace import Cost, Traced

_CONTEXT, _GAPS = 600 * 2**20, 12
"""Of CUDA and its libraries, in bytes; and one in so many bytes of a call for gaps between what is allocated."""
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_STATE_BYTES: Mapping[str, float] = {
    "sgd": 0, "sgdnesterov": 4, "sgdnesterov8bit": 1, "adagrad": 4, "rmsprop": 4, "adafactor": 0.1,
    "lion": 4, "lion8bit": 1, "adamw8bit": 2, "adam8bit": 2, "ademamix8bit": 3,
    "prodigy": 16, "dadaptation": 12, "dadaptadam": 12, "dadaptadampreprint": 12, "dadaptadan": 20, "dadaptadanip": 20,
}  # fmt: skip
"""For a weight of four bytes. Others keep two such numbers, as Adam does; paged ones can leave the device."""
_OFFLOAD = "memory.offload: layers"
_CHANGES: Sequence[tuple[str, str, Callable[[Any], object]]] = (
    ("train.dtype: bf16", "train.dtype", lambda old: "bf16" if old == "fp32" else old),
    ("train.gradient_checkpointing: true", "train.gradient_checkpointing", lambda old: True),
    ("leco.pairs_per_step: 1", "leco.pairs_per_step", lambda old: 1),
    ("batch_size = 1 in the prompts", "batch_size", lambda old: 1),
    ("memory.fp8_base: true", "memory.fp8_base", lambda old: True),
    ("train.optimizer: adamw8bit", "train.optimizer", lambda old: "adamw8bit" if old == "adamw" else old),
    (_OFFLOAD, "memory.offload", lambda old: old or "layers"),
    ("network.linear: 4", "network.linear", lambda old: min(4, old)),
    # multiples of 64, as every model takes them
    ("half the resolution in the prompts", "resolution",
     lambda old: tuple(side if side < 512 else side // 128 * 64 for side in old)),
)  # fmt: skip
"""What makes a run smaller, from what costs least to what costs most: in words, the option or key, its new value."""
_T = TypeVar("_T")


class UnknownModelError(Exception):
    """Why nothing can be said of a run; the text is for the user."""


@dataclass(frozen=True)
class Estimate:
    """What a run will need; bytes on the device by what they are for, the rest of an optimizer step."""

    model: int
    network: int
    text_encoders: int
    """Only at the start, before the model comes."""
    without_gradient: int
    """Of the widest call of teacher and walk."""
    student: int
    """Of the widest call of the student, with its backward pass."""
    steps: Steps
    rows: float
    """Forward passes of one sample, those in the backward pass included."""
    flops: float

    @property
    def overhead(self) -> int:
        """CUDA's context, the libraries' workspaces, and gaps between what is allocated."""
        return _CONTEXT + max(self.without_gradient, self.student, self.text_encoders) // _GAPS

    @property
    def peak(self) -> int:
        """The most at one time."""
        training = self.model + self.network + max(self.without_gradient, self.student)
        return self.overhead + max(self.text_encoders, training)


class Estimator:
    """Estimates of a job and of jobs like it; what they have in common is traced once."""

    def __init__(self) -> None:
        self._known: dict[object, object] = {}

    def estimate(self, job: JobConfig) -> Estimate:
        """What ``job`` needs; UnknownModelError where its model is not at hand, or cannot be traced."""
        try:
            return self._estimate(job)
        except LecoError as error:
            raise UnknownModelError(error.problems[0].message) from error
        # a model of an unusual make, or numbers beyond all bounds: whatever it is, the check goes on
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            lines = str(error).strip().splitlines()
            raise UnknownModelError(lines[0][:200] if lines else type(error).__name__) from error

    def _estimate(self, job: JobConfig) -> Estimate:
        traced, steps = self._traced(job), self._steps(job)
        optimizer, again = job.train.optimizer, 2 if job.train.gradient_checkpointing else 1
        state = 0 if optimizer.startswith("paged") else _STATE_BYTES.get(optimizer, 8)
        return Estimate(
            model=traced.model.weight_bytes,
            network=int(traced.trained * (2 + state / 4)) * _BYTES[job.network.dtype],
            text_encoders=traced.model.text_bytes,
            without_gradient=self._cost(job, steps.teacher).most,
            student=self._cost(job, steps.student).most,
            steps=steps,
            rows=sum(count * (again if gradient else 1) for (_, gradient), count in steps.rows.items()),
            flops=self._flops(job, steps),
        )

    def _flops(self, job: JobConfig, steps: Steps) -> float:
        """Sizes between the largest and the smallest are not traced: they lie on a curve of pixels and their square."""
        shapes = {shape[1] * shape[2]: shape for shape, _ in steps.rows}
        large, small = max(shapes), min(shapes)
        per_row = {call.gradient: self._cost(job, call).flops / call.rows for call in (steps.teacher, steps.student)}
        square = 0.0
        if small < large:
            least = self._cost(job, Call(shapes[small], 1)).flops
            square = (1 - least * large / (per_row[False] * small)) / (large - small)
        areas = {kind: kind[0][1] * kind[0][2] for kind in steps.rows}
        return sum(rows * per_row[kind[1]] * areas[kind] / large * (1 - (large - areas[kind]) * square)
                   for kind, rows in steps.rows.items())  # fmt: skip

    def _traced(self, job: JobConfig) -> Traced:
        return self._once((job.model, job.network, job.memory, job.train.dtype), lambda: Traced(job))

    def _steps(self, job: JobConfig) -> Steps:
        traced, train = self._traced(job), job.train
        key = (job.model, job.network.type, job.leco, train.steps, train.gradient_accumulation, job.pairs)
        return self._once(key, lambda: count_steps(job, traced.model.denoiser, traced.network))

    def _cost(self, job: JobConfig, call: Call) -> Cost:
        again = call.gradient and job.train.gradient_checkpointing
        # where weights are while they are not computed with makes no difference to a call
        memory = job.memory.model_copy(update={"offload": None})
        key = (job.model, job.network, memory, job.train.dtype, again, call)
        return self._once(key, lambda: self._traced(job).cost(call, again=again))

    def _once(self, key: object, make: Callable[[], _T]) -> _T:
        if key not in self._known:
            self._known[key] = make()
        return cast(_T, self._known[key])

    def what_fits(self, job: JobConfig, room: float) -> tuple[list[str], Estimate]:
        """Options to set, one after the other, until the run needs no more than ``room`` bytes, and the estimate then.

        The best that there is, where all of them are not enough.
        """
        said: list[str] = []
        now = self.estimate(job)
        if now.text_encoders + _CONTEXT > room:
            return said, now
        flow = self._traced(job).model.denoiser.prediction_type == "flow"
        for option, place, change in _CHANGES:
            changed = _changed(job, place, change)
            if now.peak <= room or changed == job or (option == _OFFLOAD and not flow):
                continue
            try:
                then = self.estimate(changed)
            except UnknownModelError:
                continue
            if then.peak < 0.98 * now.peak:
                job, now = changed, then
                said.append(option)
        return said, now


def _changed(job: JobConfig, place: str, change: Callable[[Any], object]) -> JobConfig:
    """``job`` with another value of an option, or of a key of every pair."""
    section, _, key = place.rpartition(".")
    if section:
        old = getattr(job, section)
        return job.model_copy(update={section: old.model_copy(update={key: change(getattr(old, key))})})
    pairs = (pair.model_copy(update={key: change(getattr(pair, key))}) for pair in job.pairs)
    return job.model_copy(update={"pairs": tuple(pairs)})
