"""The estimate in words and in JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leco_plugin.config.schema import JobConfig
from leco_plugin.estimate.cards import CALL_SECONDS, CPU, SIZES, SPEEDS, USABLE, Card, Speed, cards_here
from leco_plugin.estimate.model_files import UnknownModelError
from leco_plugin.estimate.rows import calls_of
from leco_plugin.estimate.run import Estimate, estimate, what_fits

_GIB = 2**30
_LABELS = {
    "model": "weights of the model",
    "network": "network: weights, gradients, the optimizer's state",
    "text_encoders": "text encoders, in float32; only at the start",
    "without_gradient": "call of teacher and walk",
    "student": "call of the student, until its backward pass",
    "overhead": "CUDA itself, workspaces, gaps",
}


def estimate_lines(job: JobConfig) -> Iterator[str]:
    """What ``job`` will need, and what to set where that is too much for a card."""
    try:
        found = estimate(job)
    except UnknownModelError as reason:
        yield f"memory and time cannot be told without the model: {reason}"
        return
    yield from _memory_lines(job, found)
    yield from _time_lines(job, found)


def estimate_fields(job: JobConfig) -> dict[str, object]:
    """The same as fields of a JSON object."""
    try:
        found = estimate(job)
    except UnknownModelError as reason:
        return {"unknown": str(reason)}
    parts = {name: getattr(found.parts, name) for name in _LABELS}
    return {
        "peak_bytes": found.parts.peak,
        "bytes": parts,
        "rows_per_step": round(found.rows, 2),
        "flops_per_step": round(found.flops),
        "fits_gb": [size for size in SIZES if found.parts.peak <= _room(size)],
    }


def _memory_lines(job: JobConfig, found: Estimate) -> Iterator[str]:
    yield f"memory on a GPU, estimated: {_size(found.parts.peak)} at its peak"
    rows = {"without_gradient": found.calls.without_gradient, "student": found.calls.student}
    for name, label in _LABELS.items():
        more = f", {rows[name]} row{'s' if rows[name] > 1 else ''}" if name in rows else ""
        yield f"  {_size(getattr(found.parts, name)):>10}  {label}{more}"
    yield "  the three calls come one after the other: the largest of them counts"
    here = cards_here()
    if here and (job.device == "auto" or job.device.startswith("cuda")):
        yield from _here_lines(job, found, here)
    else:
        yield from _usual_cards(job, found)


def _here_lines(job: JobConfig, found: Estimate, here: Sequence[Card]) -> Iterator[str]:
    number = int(job.device.partition(":")[2] or 0)
    if number >= len(here):
        yield from _usual_cards(job, found)
        return
    card = here[number]
    yield f"  {card.name}: {_size(card.free)} of {_size(card.total)} are free; {_verdict(job, found, card.free)}"


def _usual_cards(job: JobConfig, found: Estimate) -> Iterator[str]:
    fitting = [size for size in SIZES if found.parts.peak <= _room(size)]
    if fitting:
        yield f"  fits a card of {', '.join(map(str, fitting))} GB"
    for size in SIZES:
        if size not in fitting:
            yield f"  a card of {size} GB: {_verdict(job, found, _room(size))}"


def _verdict(job: JobConfig, found: Estimate, room: float) -> str:
    if found.parts.peak <= room:
        return "it fits"
    options, then = what_fits(job, room)
    if not options:
        return "too small"
    fits = "would fit with" if then.parts.peak <= room else "too small, even with"
    return f"{fits} {'; '.join(options)} ({_size(then.parts.peak)})"


def _time_lines(job: JobConfig, found: Estimate) -> Iterator[str]:
    half = job.train.dtype != "fp32"
    total, calls = found.flops * job.train.steps, calls_of(job) * job.train.steps
    yield (
        f"time, roughly, within a factor of two: an optimizer step is {found.rows:.1f} forward passes of one sample "
        f"besides the backward pass, {found.flops / 1e12:.3g} TFLOP"
    )
    shown = {**SPEEDS, "a CPU of eight cores": CPU}
    times = [f"{_time(total, calls, speed, half=half)} on {_article(name)}" for name, speed in shown.items()]
    yield f"  {job.train.steps} steps: about {', '.join(times)}"


def _time(flops: float, calls: float, speed: Speed, *, half: bool) -> str:
    seconds = max(flops / 1e12 / (speed.half if half else speed.full), calls * CALL_SECONDS)
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{max(1, round(seconds / unit))} {name}"
    return f"{round(seconds / 86400)} days"


def _article(name: str) -> str:
    return name if name.startswith("a ") else f"{'an' if name[0] in 'ARH' else 'a'} {name}"


def _room(size: int) -> float:
    return USABLE * size * _GIB


def _size(count: float) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= 0.1 * _GIB else f"{count / 2**20:.0f} MiB"
