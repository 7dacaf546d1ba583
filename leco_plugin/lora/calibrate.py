"""`leco calibrate`: find the strength at which a LoRA reaches its goal, and make that its strength 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leco_plugin.atomic import write_atomically
from leco_plugin.config.schema import PromptPair
from leco_plugin.engine.measure import Bench, Measured, asks, unit
from leco_plugin.errors import ConfigError, NetworkError
from leco_plugin.lora.file import Lora, with_pairs
from leco_plugin.lora.scale import scaled, scaled_metadata
from leco_plugin.lora.subject import Asked, find_subject, load_model
from leco_plugin.network.adapter import CONFIG_NAME
from leco_plugin.network.differences import is_idle
from leco_plugin.network.lora_file import write_tensors
from leco_plugin.network.metadata import is_sidecar, sidecar
from leco_plugin.observers.console.figures import percentage
from leco_plugin.observers.console.pages import Page

_AROUND = (0.7, 0.85, 1.0, 1.2, 1.4)
"""Multiples of the first estimate that the peak is fitted to."""
_GRID = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
"""Multiples of the useful strength among which the range ends."""
_ROUNDS, _CLOSE, _MOST_CHANGE, _STRONGEST = 6, 1.15, 4.0, 64.0
_TOO_LITTLE = 0.05
"""A LoRA whose best strength reaches less of the goal than this is for something else."""


@dataclass(frozen=True)
class Calibration:
    """What was found, in the strength that the file has now."""

    before: float
    """Goal reached at strength 1 as the file is."""
    strength: float
    """The useful strength."""
    reached: float
    by_side: dict[float, float]
    """Goal reached at either end that was trained, 1 or -1: one alpha serves both, and they may differ."""
    drift: float | None
    low: float
    """The range that can be used, in multiples of the useful strength."""
    high: float


def calibrate(path: Path, asked: Asked, output: Path | None, drift_limit: float) -> None:
    """Write ``path`` with strength 1 where its goal is reached to ``output``; ``path`` itself to overwrite it.

    Raises LecoError, and writes nothing, where there is no such strength.
    """
    lora = Lora.read(path)
    target = target_of(lora.path, lora.path if output is path else output)
    _refuse_nothing(lora)
    if lora.scale_beside and target == lora.path:
        raise ConfigError(
            f"{path} has its scale in {CONFIG_NAME} beside it, which calibrate leaves alone", fix="name an --output"
        )
    # refused before anything is measured
    scaled(lora, 1.0)
    subject = find_subject([lora], asked)
    page = Page()
    with page.working(f"loading {subject.job.model.name_or_path}"):
        denoiser = load_model(subject.job)
    with page.working("measuring"), subject.attached(lora, denoiser) as network:
        found = find_calibration(path, subject.pairs, subject.bench(denoiser, network), drift_limit)
    metadata = _metadata(lora, found, subject.pairs)
    try:
        write_tensors(target, scaled(lora, found.strength), metadata)
        if is_sidecar(lora.path.with_suffix(".json")):
            write_atomically(target.with_suffix(".json"), sidecar(metadata))
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}", fix="choose another --output") from None
    page.lines(_report(found, target, drift_limit))


def find_calibration(path: Path, pairs: Sequence[PromptPair], bench: Bench, drift_limit: float) -> Calibration:
    """The useful strength of the LoRA of ``path`` and its range."""
    asking = [pair for pair in pairs if asks(pair)]
    sides = sorted({1.0 if pair.multiplier > 0 else -1.0 for pair in asking})
    before, estimate = _estimate(path, bench, sides, unit(asking))
    sizes = [estimate * multiple for multiple in _AROUND]
    measured = _measure(bench, sides, sizes, estimate)
    strength = _peak(sizes, [measured.at_own_side(size).reached for size in sizes])
    grid = [strength * multiple for multiple in _GRID]
    measured = _measure(bench, sides, grid, strength, drift=True)
    reached = measured.at_own_side(strength).reached
    if reached < _TOO_LITTLE:
        raise NetworkError(
            f"{path} reaches {percentage(reached)} of the goal even at its best strength, {strength:.2f}",
            fix="train longer, or name the prompts that it was trained with",
        )
    ends = {side: end_of(measured, side, strength, drift_limit) for side in sides}
    drift = measured.drift(max(sides) * strength)
    by_side = {side: measured.reached(side * strength) or 0.0 for side in sides}
    return Calibration(before, strength, reached, by_side, drift, 0.0 - ends.get(-1.0, 0.0), ends.get(1.0, 0.0))


def _estimate(path: Path, bench: Bench, sides: Sequence[float], first: float) -> tuple[float, float]:
    """(goal reached at the first strength, about the best strength), as if predictions followed strength in a line."""
    strength, before = first, None
    for _ in range(_ROUNDS):
        now = _measure(bench, sides, [strength], strength).at_own_side(strength)
        before = now.reached if before is None else before
        if now.progress <= 0 or now.change <= 0:
            raise NetworkError(
                f"{path} moves away from the goal at strength {strength:g} (progress {percentage(now.progress)})",
                fix="name the prompts that it was trained with; use negative strengths if it was trained the other way",
            )
        ratio = min(max(now.progress / now.change, 1 / _MOST_CHANGE), _MOST_CHANGE)
        strength *= ratio
        if strength > _STRONGEST * first:
            raise NetworkError(f"{path} does next to nothing: even at strength {strength:g}", fix="train it longer")
        if 1 / _CLOSE < ratio < _CLOSE:
            break
    return before or 0.0, strength


def _measure(
    bench: Bench, sides: Sequence[float], sizes: Sequence[float], walk_strength: float, *, drift: bool = False
) -> Measured:
    strengths = [side * size for side in sides for size in sizes]
    return bench.measure(strengths, walk_strength=walk_strength, own_side=True, drift=drift)


def _peak(sizes: Sequence[float], reached: Sequence[float]) -> float:
    """Where a parabola through the measurements is highest, within them."""
    bend, slope, _ = np.polyfit(sizes, reached, 2)
    if bend >= 0:
        return sizes[int(np.argmax(reached))]
    return float(np.clip(-slope / (2 * bend), min(sizes), max(sizes)))


def end_of(measured: Measured, side: float, strength: float, drift_limit: float) -> float:
    """How many times the useful strength the LoRA can be used at: drift bounded, and every step goes further."""
    last, last_drift = 0.0, 0.0
    for multiple in _GRID:
        here = side * strength * multiple
        before = measured.progress(side * strength * last) if last else 0.0
        if side * (measured.progress(here) - before) <= 0:
            return last
        drift = measured.drift(here) or 0.0
        if drift > drift_limit:
            # drift grows with the square of the strength
            share = (drift_limit**0.5 - last_drift**0.5) / (drift**0.5 - last_drift**0.5)
            return int(10 * (last + share * (multiple - last))) / 10
        last, last_drift = multiple, drift
    return last


def target_of(path: Path, output: Path | None) -> Path:
    """Where to write; ConfigError where that is the input by accident, or cannot hold the metadata."""
    target = output or path.with_name(f"{path.stem}-calibrated.safetensors")
    if target.suffix.lower() != ".safetensors":
        raise ConfigError(f"{target} has no place for metadata", fix="name a .safetensors file with --output")
    if output is not None and output is not path and output.exists() and path.exists() and output.samefile(path):
        raise ConfigError(f"{output} is the file itself", fix="say --in-place to overwrite it, or name another")
    return target


def _refuse_nothing(lora: Lora) -> None:
    if all(is_idle(layer.parts) for layer in lora.layers):
        raise NetworkError(
            f"{lora.path} does nothing: every layer's change is zero, as before the first step",
            fix="train it; with learning rate 0, or where nothing is asked, nothing is learned",
        )


def _metadata(lora: Lora, found: Calibration, pairs: Sequence[PromptPair]) -> dict[str, str]:
    metadata = scaled_metadata(lora.metadata, found.strength)
    trained_at = unit([pair for pair in pairs if asks(pair)])
    if lora.pairs and trained_at != 1:
        # its goal is at strength 1 from now on
        own = tuple(p.model_copy(update={"multiplier": p.multiplier / trained_at}) for p in lora.pairs)
        metadata = with_pairs(metadata, own)
    return {
        **metadata,
        "ss_leco_calibrated": f"{found.strength:.4g}",
        "ss_leco_goal_reached": f"{found.reached:.3f}",
        "ss_leco_strength_range": f"{found.low:g}..{found.high:g}",
        "modelspec.usage_hint": f"strength 1; can be used from {found.low:g} to {found.high:g}; no trigger word",
        "modelspec.lora_default_weight": "1",
    }


def _report(found: Calibration, target: Path, drift_limit: float) -> list[str]:
    ends = ", ".join(f"{percentage(reached)} at {side:+g}" for side, reached in found.by_side.items())
    return [
        f"as it was: goal reached {percentage(found.before)} at the strength that it was trained at",
        f"useful strength: {found.strength:.2f}, goal reached {percentage(found.reached)} ({ends}), "
        f"drift {percentage(found.drift)}",
        f"range: {found.low:g} to {found.high:g} in the new strength "
        f"(drift at most {percentage(drift_limit)}, every step goes further)",
        f"written: {target}, whose strength 1 is what {found.strength:.2f} was",
    ]
