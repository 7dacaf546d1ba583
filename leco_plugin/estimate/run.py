"""The estimate of one run, and what makes it fit a card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from leco_plugin.config.schema import JobConfig, PromptPair
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
        self._known: dict[object, Any] = {}

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
        flops = 0.0
        for (shape, gradient), rows in steps.rows.items():
            area = shape[1] * shape[2]
            flops += rows * per_row[gradient] * area / large * (1 - (large - area) * square)
        return flops

    def _traced(self, job: JobConfig) -> Traced:
        key = (job.model, job.network, job.memory, job.train.dtype)
        return cast(Traced, self._once(key, lambda: Traced(job)))

    def _steps(self, job: JobConfig) -> Steps:
        traced, train = self._traced(job), job.train
        key = (job.model, job.network.type, job.leco, train.steps, train.gradient_accumulation, job.pairs)
        return cast(Steps, self._once(key, lambda: count_steps(job, traced.model.denoiser, traced.network)))

    def _cost(self, job: JobConfig, call: Call) -> Cost:
        again = call.gradient and job.train.gradient_checkpointing
        # where weights are while they are not computed with makes no difference to a call
        memory = job.memory.model_copy(update={"offload": None})
        key = (job.model, job.network, memory, job.train.dtype, again, call)
        return cast(Cost, self._once(key, lambda: self._traced(job).cost(call, again=again)))

    def _once(self, key: object, make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def what_fits(self, job: JobConfig, room: float) -> tuple[list[str], Estimate]:
        """Options to set, one after the other, until the run needs no more than ``room`` bytes, and the estimate then.

        The best that there is, where all of them are not enough.
        """
        said: list[str] = []
        now = self.estimate(job)
        if now.text_encoders + _CONTEXT > room:
            return said, now
        flow = self._traced(job).model.denoiser.prediction_type == "flow"
        for option, change in (*_CHANGES, *(_FLOW_CHANGES if flow else ()), *_LAST_CHANGES):
            changed = change(job)
            if now.peak <= room or changed == job:
                continue
            try:
                then = self.estimate(changed)
            except UnknownModelError:
                continue
            if then.peak < 0.98 * now.peak:
                job, now = changed, then
                said.append(option)
        return said, now


def _with(job: JobConfig, section: str, **values: object) -> JobConfig:
    return job.model_copy(update={section: getattr(job, section).model_copy(update=values)})


def _pairs(job: JobConfig, values: Callable[[PromptPair], dict[str, object]]) -> JobConfig:
    return job.model_copy(update={"pairs": tuple(pair.model_copy(update=values(pair)) for pair in job.pairs)})


def _halved(pair: PromptPair) -> dict[str, object]:
    # multiples of 64, as every model takes them
    return {"resolution": tuple(side if side < 512 else side // 128 * 64 for side in pair.resolution)}


_Changes = Sequence[tuple[str, Callable[[JobConfig], JobConfig]]]
_CHANGES: _Changes = (
    ("train.dtype: bf16", lambda job: _with(job, "train", dtype="bf16") if job.train.dtype == "fp32" else job),
    ("train.gradient_checkpointing: true", lambda job: _with(job, "train", gradient_checkpointing=True)),
    ("leco.pairs_per_step: 1", lambda job: _with(job, "leco", pairs_per_step=1)),
    ("batch_size = 1 in the prompts", lambda job: _pairs(job, lambda pair: {"batch_size": 1})),
    ("memory.fp8_base: true", lambda job: job if job.memory.quantize else _with(job, "memory", fp8_base=True)),
    (
        "train.optimizer: adamw8bit",
        lambda job: _with(job, "train", optimizer="adamw8bit") if job.train.optimizer == "adamw" else job,
    ),
)
"""What makes a run smaller, from what costs least to what costs most."""
_FLOW_CHANGES: _Changes = (
    ("memory.offload: layers", lambda job: _with(job, "memory", offload=job.memory.offload or "layers")),
)
_LAST_CHANGES: _Changes = (
    ("network.linear: 4", lambda job: _with(job, "network", linear=min(4, job.network.linear))),
    ("half the resolution in the prompts", lambda job: _pairs(job, _halved)),
)
