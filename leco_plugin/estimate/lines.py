"""The estimate in words and in JSON."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from leco_plugin.config.schema import JobConfig
from leco_plugin.estimate.cards import CALL_SECONDS, CPU, SIZES, SPEEDS, USABLE, Card, Speed, cards_here
from leco_plugin.estimate.run import Estimate, Estimator, UnknownModelError

_GIB = 2**30
_BEYOND = 10**9
"""Numbers above are not written out."""
_LABELS = {
    "model": "weights of the model",
    "network": "network: weights, gradients, the optimizer's state",
    "text_encoders": "text encoders; only at the start, before the model is there",
    "without_gradient": "call of teacher and walk",
    "student": "call of the student, until its backward pass",
    "overhead": "CUDA itself, workspaces, gaps",
}


def estimate_lines(job: JobConfig) -> Iterator[str]:
    """What ``job`` will need, and what to set where that is too much for a card; each line as soon as it is known."""
    estimator = Estimator()
    try:
        found = estimator.estimate(job)
    except UnknownModelError as reason:
        yield f"memory and time cannot be told without the model: {reason}"
        return
    yield from _memory_lines(found)
    yield from _time_lines(job, found)
    here = cards_here()
    number = int(job.device.partition(":")[2] or 0)
    if number < len(here) and (job.device == "auto" or job.device.startswith("cuda")):
        yield _here_line(job, found, here[number], estimator)
    else:
        yield from _usual_cards(job, found, estimator)


def estimate_fields(job: JobConfig) -> dict[str, object]:
    """The same as fields of a JSON object."""
    try:
        found = Estimator().estimate(job)
    except UnknownModelError as reason:
        return {"unknown": str(reason)}
    return {
        "peak_bytes": found.parts.peak,
        "bytes": {name: getattr(found.parts, name) for name in _LABELS},
        "rows_per_step": round(100 * found.rows) / 100 if found.rows < _BEYOND else round(found.rows),
        "flops_per_step": round(found.flops),
        "fits_gb": _fitting(found),
    }


def _memory_lines(found: Estimate) -> Iterator[str]:
    yield f"memory on a GPU, estimated: {_size(found.parts.peak)} at its peak"
    rows = {("student" if kind.gradient else "without_gradient"): n.rows for kind, n in found.steps.widest.items()}
    for name, label in _LABELS.items():
        more = f", {_number(rows[name])} row{'s' if rows[name] > 1 else ''}" if name in rows else ""
        yield f"  {_size(getattr(found.parts, name)):>10}  {label}{more}"
    yield "  the calls come one after the other, and the text encoders before the model: the largest counts"


def _here_line(job: JobConfig, found: Estimate, card: Card, estimator: Estimator) -> str:
    free = f"{_size(card.free)} of {_size(card.total)} are free"
    return f"  {card.name}: {free}; {_verdict(job, found, card.free, estimator)}"


def _usual_cards(job: JobConfig, found: Estimate, estimator: Estimator) -> Iterator[str]:
    fitting = _fitting(found)
    if fitting:
        yield f"  fits a card of {', '.join(map(str, fitting))} GB"
    # the larger ones first: what they need is tried on the way to what the smaller ones do
    for size in sorted(set(SIZES) - set(fitting), reverse=True):
        yield f"  a card of {size} GB: {_verdict(job, found, _room(size), estimator)}"


def _verdict(job: JobConfig, found: Estimate, room: float, estimator: Estimator) -> str:
    if found.parts.peak <= room:
        return "it fits"
    options, then = estimator.what_fits(job, room)
    if not options:
        return "too small"
    fits = "would fit with" if then.parts.peak <= room else "too small, even with"
    return f"{fits} {'; '.join(options)} ({_size(then.parts.peak)})"


def _time_lines(job: JobConfig, found: Estimate) -> Iterator[str]:
    half = job.train.dtype != "fp32"
    yield (
        f"time, roughly, within a factor of two: an optimizer step is {_number(found.rows)} forward passes of one "
        f"sample besides the backward pass, {_number(found.flops / 10**12)} TFLOP"
    )
    shown = {**SPEEDS, "a CPU of eight cores": CPU}
    times = [f"{_time(job.train.steps, found, speed, half=half)} on {_article(name)}" for name, speed in shown.items()]
    yield f"  {_number(job.train.steps)} steps: about {', '.join(times)}"


def _time(steps: int, found: Estimate, speed: Speed, *, half: bool) -> str:
    computing = found.flops / (Fraction(speed.half if half else speed.full) * 10**12)
    seconds = steps * max(computing, found.steps.calls * Fraction(CALL_SECONDS))
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{max(1, round(seconds / unit))} {name}"
    days = round(seconds / 86400)
    return f"{days} days" if days < _BEYOND else "an eternity"


def _article(name: str) -> str:
    return name if name.startswith("a ") else f"{'an' if name[0] in 'ARH' else 'a'} {name}"


def _fitting(found: Estimate) -> list[int]:
    return [size for size in SIZES if found.parts.peak <= _room(size)]


def _room(size: int) -> float:
    return USABLE * size * _GIB


def _number(number: Fraction | int) -> str:
    if number >= _BEYOND:
        return f"over {_BEYOND:,}"
    return str(number) if isinstance(number, int) else f"{float(number):.3g}"


def _size(count: int) -> str:
    if count >= _BEYOND * _GIB:
        return f"over {_BEYOND:,} GiB"
    return f"{count / _GIB:.1f} GiB" if count >= 0.1 * _GIB else f"{count / 2**20:.0f} MiB"
