"""The estimate in words and in JSON."""

from __future__ import annotations

from collections.abc import Iterator

from leco_plugin.config.schema import JobConfig
from leco_plugin.estimate.cards import CALL_SECONDS, CPU, SIZES, SPEEDS, USABLE, Speed, cards_here
from leco_plugin.estimate.run import Estimate, Estimator, UnknownModelError

_GIB = 2**30
_BEYOND = 10**9
"""Numbers above are not written out."""
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
    yield from _time_lines(job, found)
    here, number = cards_here(), int(job.device.partition(":")[2] or 0)
    if number < len(here) and (job.device == "auto" or job.device.startswith("cuda")):
        card = here[number]
        free = f"{_size(card.free)} of {_size(card.total)} are free"
        yield f"  {card.name}: {free}; {_verdict(job, found, card.free, estimator)}"
        return
    if fitting := _fitting(found):
        yield f"  fits a card of {', '.join(map(str, fitting))} GB"
    # the larger ones first: what they need is tried on the way to what the smaller ones do
    for size in sorted(set(SIZES) - set(fitting), reverse=True):
        yield f"  a card of {size} GB: {_verdict(job, found, _room(size), estimator)}"


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


def _time_lines(job: JobConfig, found: Estimate) -> Iterator[str]:
    yield (
        f"time, roughly, within a factor of two: an optimizer step is {found.rows:.3g} forward passes of one "
        f"sample besides the backward pass, {found.flops / 1e12:.3g} TFLOP"
    )
    shown = {**SPEEDS, "CPU of eight cores": CPU}
    times = [
        f"{_time(job, found, speed)} on {'an' if name[0] in 'ARH' else 'a'} {name}" for name, speed in shown.items()
    ]
    steps = job.train.steps if job.train.steps < _BEYOND else f"over {_BEYOND:,}"
    yield f"  {steps} steps: about {', '.join(times)}"


def _time(job: JobConfig, found: Estimate, speed: Speed) -> str:
    tera_flops = speed.full if job.train.dtype == "fp32" else speed.half
    seconds = min(job.train.steps, _BEYOND) * max(found.flops / 1e12 / tera_flops, found.steps.calls * CALL_SECONDS)
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{max(1, round(seconds / unit))} {name}"
    days = round(seconds / 86400)
    return f"{days} days" if days < 36500 else "over 100 years"


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'ARH' else 'a'} {name}"


def _fitting(found: Estimate) -> list[int]:
    return [size for size in SIZES if found.peak <= _room(size)]


def _room(size: int) -> float:
    return USABLE * size * _GIB


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= 0.1 * _GIB else f"{count / 2**20:.0f} MiB"
