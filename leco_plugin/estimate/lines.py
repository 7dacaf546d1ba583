"""The estimate in words and in JSON."""

from __future__ import annotations

from collections.abc import Iterator

from leco_plugin.cards import ask_nvidia
from leco_plugin.config.schema import JobConfig
from leco_plugin.estimate.run import Estimate, Estimator, UnknownModelError

_GIB = 2**30
_BEYOND = 10**9
"""Numbers above are not written out."""
_SIZES, _USABLE = (8, 12, 16, 24), 0.95
"""GiB that cards usually have, and how much of it: the rest has the system, or the desktop."""
_SPEEDS = {
    "an RTX 3060": (13, 6), "an RTX 4070": (30, 14), "an RTX 3090": (35, 17), "an RTX 4090": (80, 40),
    "an A100": (120, 10), "an H100": (300, 30), "a CPU of eight cores": (0.2, 0.3),
}  # fmt: skip
"""TFLOP/s that training reaches, in half precision and in float32: about half of what the data sheet promises."""
_CALL_SECONDS = 0.02
"""What a call of a model takes at the least, however little there is to compute: its thousand kernels are started."""
_LABELS = {
    "model": "weights of the model",
    "network": "network: weights, gradients, the optimizer's state",
    "text_encoders": "text encoders; only at the start, before the model is there",
    "without_gradient": "call of teacher and walk, {} rows",
    "student": "call of the student and its backward pass, rows: {}",
    "overhead": "CUDA itself, workspaces, gaps",
}


def estimate_lines(job: JobConfig, *, parts: bool = True) -> Iterator[str]:
    """What ``job`` will need, and what to set where that is too much for a card; each line as soon as it is known.

    ``parts`` adds what the memory is for.
    """
    estimator = Estimator()
    try:
        found = estimator.estimate(job)
    except UnknownModelError as reason:
        yield f"memory and time cannot be told: {reason}"
        return
    yield f"memory on a GPU, estimated: {_size(found.peak)} at its peak"
    if parts:
        yield from _part_lines(found)
    yield (
        f"time, roughly, within a factor of two: an optimizer step is {found.rows:.3g} forward passes of one "
        f"sample besides the backward pass, {found.flops / 1e12:.3g} TFLOP"
    )
    steps = job.train.steps if job.train.steps < _BEYOND else f"over {_BEYOND:,}"
    times = (f"{_time(job, found, *speed)} on {name}" for name, speed in _SPEEDS.items())
    yield f"  {steps} steps: about {', '.join(times)}"
    cards, number = _cards_here(), int(job.device.partition(":")[2] or 0)
    if number < len(cards) and (job.device == "auto" or job.device.startswith("cuda")):
        name, total, free = cards[number]
        yield f"  {name}: {_size(free)} of {_size(total)} are free; {_verdict(job, found, free, estimator)}"
        return
    if fitting := _fitting(found):
        yield f"  fits a card of {', '.join(map(str, fitting))} GB"
    # the larger ones first: what they need is tried on the way to what the smaller ones do
    for size in sorted(set(_SIZES) - set(fitting), reverse=True):
        yield f"  a card of {size} GB: {_verdict(job, found, _USABLE * size * _GIB, estimator)}"


def _part_lines(found: Estimate) -> Iterator[str]:
    rows = {"without_gradient": found.steps.teacher.rows, "student": found.steps.student.rows}
    for name, label in _LABELS.items():
        yield f"  {_size(getattr(found, name)):>10}  {label.format(rows.get(name))}"
    yield "  the calls come one after the other, and the text encoders before the model: the largest counts"


def estimate_fields(job: JobConfig) -> dict[str, object]:
    """The same as fields of a JSON object."""
    try:
        found = Estimator().estimate(job)
    except UnknownModelError as reason:
        return {"unknown": str(reason)}
    return {
        "peak_bytes": found.peak,
        "bytes": {name: getattr(found, name) for name in _LABELS},
        "rows_per_step": round(found.rows, 2),
        "flops_per_step": round(found.flops),
        "fits_gb": _fitting(found),
    }


def _verdict(job: JobConfig, found: Estimate, room: float, estimator: Estimator) -> str:
    if found.peak <= room:
        return "it fits"
    options, then = estimator.what_fits(job, room)
    if then.peak <= room:
        return f"would fit with {'; '.join(options)} ({_size(then.peak)})"
    tried = f", even with {'; '.join(options)} ({_size(then.peak)})" if options else ""
    encoders = f": the text encoders take {_size(found.text_encoders)}" if found.text_encoders > room - _GIB else ""
    return f"too small{tried}{encoders}"


def _time(job: JobConfig, found: Estimate, half: float, full: float) -> str:
    tera_flops = full if job.train.dtype == "fp32" else half
    seconds = min(job.train.steps, _BEYOND) * max(found.flops / 1e12 / tera_flops, found.steps.calls * _CALL_SECONDS)
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{max(1, round(seconds / unit))} {name}"
    days = round(seconds / 86400)
    return f"{days} days" if days < 36500 else "over 100 years"


def _fitting(found: Estimate) -> list[int]:
    return [size for size in _SIZES if found.peak <= _USABLE * size * _GIB]


def _cards_here() -> list[tuple[str, int, int]]:
    """The NVIDIA cards of this machine, with all and free bytes; none where their driver does not answer."""
    cards = (line.rsplit(",", 2) for line in ask_nvidia("name,memory.total,memory.free", seconds=10))
    try:
        return [(name.strip(), int(total) * 2**20, int(free) * 2**20) for name, total, free in cards]
    except ValueError:
        return []


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= 0.1 * _GIB else f"{count / 2**20:.0f} MiB"
