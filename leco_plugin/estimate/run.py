"""The estimate of one run, and what makes it fit a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from leco_plugin.config.schema import JobConfig
from leco_plugin.errors import LecoError
from leco_plugin.estimate.steps import Rows, Steps, Wide, count_steps
from leco_plugin.estimate.trace import BYTES, Call, Traced

_SMALLEST_SIDE, _SMALLEST_RANK = 256, 4
_CONTEXT, _GAPS = 600 * 2**20, 12
"""Of CUDA and its libraries, in bytes; and one in so many bytes of a call for gaps between what is allocated."""
_STATE_BYTES: Mapping[str, float] = {
    "sgd": 0, "sgdnesterov": 4, "sgdnesterov8bit": 1, "adagrad": 4, "rmsprop": 4, "adafactor": 0.1,
    "lion": 4, "lion8bit": 1, "adamw8bit": 2, "adam8bit": 2, "ademamix8bit": 3,
    "prodigy": 16, "dadaptation": 12, "dadaptadam": 12, "dadaptadampreprint": 12, "dadaptadan": 20, "dadaptadanip": 20,
}  # fmt: skip
_USUAL_STATE_BYTES = 8
"""Two float32 numbers a weight, as Adam has; those of a paged optimizer can leave the device."""


class UnknownModelError(Exception):
    """Why nothing can be said of a run; the text is for the user."""


@dataclass(frozen=True)
class Parts:
    """Bytes on the device, by what they are for."""

    model: int
    network: int
    """Its weights, their gradients, and the optimizer's state."""
    text_encoders: int
    """Only at the start, before the model comes."""
    without_gradient: int
    """Of the teacher's and the walk's call, while it runs."""
    student: int
    """Of the student's call and its backward pass."""

    @property
    def overhead(self) -> int:
        """CUDA's context, the libraries' workspaces, and gaps between what is allocated."""
        return _CONTEXT + max(self.without_gradient, self.student, self.text_encoders) // _GAPS

    @property
    def peak(self) -> int:
        """The most at one time."""
        training = self.model + self.network + max(self.without_gradient, self.student)
        return self.overhead + max(self.text_encoders, training)


@dataclass(frozen=True)
class Estimate:
    """What a run will need."""

    parts: Parts
    steps: Steps
    rows: Fraction
    """Forward passes of one sample in an optimizer step, backward passes left out."""
    flops: Fraction
    """Of one optimizer step."""


class Estimator:
    """Estimates of a job and of jobs like it; what they have in common is traced once."""

    def __init__(self) -> None:
        self._models: dict[object, Traced] = {}
        self._steps: dict[object, Steps] = {}
        self._calls: dict[object, Call] = {}

    def estimate(self, job: JobConfig) -> Estimate:
        """Memory and work of ``job``; UnknownModelError where its model is not at hand, or cannot be traced."""
        try:
            return self._estimate(job)
        except LecoError as error:
            raise UnknownModelError(error.problems[0].message) from error
        # a model of an unusual make, or numbers beyond all bounds: whatever it is, the check goes on
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            lines = str(error).strip().splitlines()
            raise UnknownModelError(lines[0][:200] if lines else type(error).__name__) from error

    def _estimate(self, job: JobConfig) -> Estimate:
        traced, steps = self._model(job), self._counted(job)
        calls = {kind.gradient: self._call(job, kind, wide) for kind, wide in steps.widest.items()}
        parts = Parts(
            model=traced.model.weight_bytes,
            network=int(traced.trained * Fraction(2 + _state_bytes(job) / 4) * BYTES[job.network.dtype]),
            text_encoders=traced.model.text_bytes,
            without_gradient=calls[False].most,
            student=calls[True].most,
        )
        again = 2 if job.train.gradient_checkpointing else 1
        rows = sum((count * (again if kind.gradient else 1) for kind, count in steps.rows.items()), Fraction())
        return Estimate(parts, steps, rows, self._flops(job, steps))

    def _flops(self, job: JobConfig, steps: Steps) -> Fraction:
        """Of an optimizer step. Sizes between the largest and the smallest are not traced: pixels and their square."""
        areas = {kind.shape[1] * kind.shape[2]: kind for kind in steps.rows}
        large, small = max(areas), min(areas)
        per_row = {
            kind.gradient: Fraction(self._call(job, kind, wide).flops, wide.rows) for kind, wide in steps.widest.items()
        }
        square = Fraction(0)
        if small < large:
            wide = next(wide for kind, wide in steps.widest.items() if not kind.gradient)
            least = Fraction(self._call(job, Rows(areas[small].shape, gradient=False), wide).flops, wide.rows)
            square = (1 - least * large / (per_row[False] * small)) / (large - small)

        def relative(kind: Rows) -> Fraction:
            area = kind.shape[1] * kind.shape[2]
            return Fraction(area, large) * (1 - (large - area) * square)

        return sum((n * per_row[kind.gradient] * relative(kind) for kind, n in steps.rows.items()), Fraction())

    def _model(self, job: JobConfig) -> Traced:
        key = (job.model, job.network, job.memory, job.train.dtype)
        if key not in self._models:
            self._models[key] = Traced(job)
        return self._models[key]

    def _counted(self, job: JobConfig) -> Steps:
        key = (job.model, job.network.type, job.leco, job.train.steps, job.train.gradient_accumulation, job.pairs)
        if key not in self._steps:
            traced = self._model(job)
            self._steps[key] = count_steps(job, traced.model.denoiser, traced.network)
        return self._steps[key]

    def _call(self, job: JobConfig, kind: Rows, wide: Wide) -> Call:
        again = kind.gradient and job.train.gradient_checkpointing
        key = (job.model, job.network, job.memory, job.train.dtype, again, kind, wide)
        if key not in self._calls:
            self._calls[key] = self._model(job).call(kind, wide, again=again)
        return self._calls[key]

    def what_fits(self, job: JobConfig, room: float) -> tuple[list[str], Estimate]:
        """Options to set, one after the other, until the run needs no more than ``room`` bytes, and the estimate then.

        The best that there is, where all of them are not enough.
        """
        said, now = [], self.estimate(job)
        for option, change in _CHANGES:
            if now.parts.peak <= room:
                break
            changed = change(job)
            if changed is None:
                continue
            try:
                then = self.estimate(changed)
            except UnknownModelError:
                continue
            if 50 * then.parts.peak < 49 * now.parts.peak:
                job, now = changed, then
                said.append(option(changed))
        return said, now


def _state_bytes(job: JobConfig) -> float:
    """What the optimizer keeps on the device for a weight of four bytes."""
    name = job.train.optimizer
    return 0 if name.startswith("paged") else _STATE_BYTES.get(name, _USUAL_STATE_BYTES)


def _with(job: JobConfig, section: str, **values: object) -> JobConfig:
    return job.model_copy(update={section: getattr(job, section).model_copy(update=values)})


def _half_precision(job: JobConfig) -> JobConfig | None:
    return _with(job, "train", dtype="bf16") if job.train.dtype == "fp32" else None


def _checkpointing(job: JobConfig) -> JobConfig | None:
    return None if job.train.gradient_checkpointing else _with(job, "train", gradient_checkpointing=True)


def _one_pair(job: JobConfig) -> JobConfig | None:
    return _with(job, "leco", pairs_per_step=1) if job.leco.pairs_per_step > 1 else None


def _one_sample(job: JobConfig) -> JobConfig | None:
    if all(pair.batch_size == 1 for pair in job.pairs):
        return None
    return job.model_copy(update={"pairs": tuple(pair.model_copy(update={"batch_size": 1}) for pair in job.pairs)})


def _eight_bit_optimizer(job: JobConfig) -> JobConfig | None:
    return _with(job, "train", optimizer="adamw8bit") if job.train.optimizer == "adamw" else None


def _eight_bit_model(job: JobConfig) -> JobConfig | None:
    return None if job.memory.fp8_base else _with(job, "memory", fp8_base=True)


def _half_size(job: JobConfig) -> JobConfig | None:
    side = max(max(pair.resolution) for pair in job.pairs)
    if side // 2 < _SMALLEST_SIDE:
        return None
    smaller = tuple(pair.model_copy(update={"resolution": _halved(pair.resolution)}) for pair in job.pairs)
    return job.model_copy(update={"pairs": smaller})


def _halved(resolution: tuple[int, int]) -> tuple[int, int]:
    # multiples of 64, as every model takes them
    height, width = (max(64, side // 2 // 64 * 64) for side in resolution)
    return height, width


def _low_rank(job: JobConfig) -> JobConfig | None:
    if job.network.linear <= _SMALLEST_RANK or job.network.dim_from_weights:
        return None
    return _with(job, "network", linear=_SMALLEST_RANK)


Change = tuple[Callable[[JobConfig], str], Callable[[JobConfig], JobConfig | None]]


def _changes() -> Iterator[Change]:
    yield lambda job: "train.dtype: bf16", _half_precision
    yield lambda job: "train.gradient_checkpointing: true", _checkpointing
    yield lambda job: "leco.pairs_per_step: 1", _one_pair
    yield lambda job: "batch_size = 1 in the prompts", _one_sample
    yield lambda job: "memory.fp8_base: true", _eight_bit_model
    yield lambda job: "train.optimizer: adamw8bit", _eight_bit_optimizer
    yield lambda job: f"network.linear: {job.network.linear}", _low_rank
    yield lambda job: f"resolution = {max(max(pair.resolution) for pair in job.pairs)} in the prompts", _half_size


_CHANGES = tuple(_changes())
"""What makes a run smaller, from what costs least to what costs most."""
