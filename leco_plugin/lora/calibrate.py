"""`leco calibrate`: find the strength at which a LoRA has the whole effect, and make that its strength 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from leco_plugin.atomic import write_atomically
from leco_plugin.config.schema import PromptPair
from leco_plugin.config.words import effect_in_words
from leco_plugin.engine.figures import FAR_OFF, Effect, Measured
from leco_plugin.engine.measure import Bench, asks, unit
from leco_plugin.errors import ConfigError, NetworkError
from leco_plugin.lora.file import Lora, with_pairs
from leco_plugin.lora.scale import scaled, scaled_metadata
from leco_plugin.lora.subject import Asked, find_subject, load_model
from leco_plugin.network.adapter import CONFIG_NAME
from leco_plugin.network.differences import is_idle
from leco_plugin.network.lora_file import write_tensors
from leco_plugin.network.metadata import effect_metadata, is_sidecar, sidecar
from leco_plugin.observers.console.figures import amount, percentage
from leco_plugin.observers.console.pages import Page

DRIFT_LIMIT = 1.0
"""How far pictures of untouched prompts may move where nobody says it, in units of the concept."""
_GRID = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
"""Multiples of the useful strength among which the range ends."""
_FURTHEST = 1.2
"""How much of what is wanted the range of an erase reaches; beyond, shapes broke on the built-in model."""
_ROUNDS, _CLOSE, _MOST_CHANGE, _STRONGEST = 10, 0.03, 4.0, 64.0


@dataclass(frozen=True)
class Calibration:
    """What was found, in the strength that the file has now."""

    before: float
    """Effect at the strength that it was trained at, as the file is."""
    strength: float
    """The useful strength."""
    effect: Effect
    by_side: dict[float, float]
    """Effect at either end that was trained, 1 or -1: one alpha serves both, and they may differ."""
    drift: float | None
    reached: float
    """Of the goal."""
    low: float
    """The range that can be used, in multiples of the useful strength."""
    high: float


def calibrate(
    path: Path, asked: Asked, output: Path | None, drift_limit: float = DRIFT_LIMIT, effect: float | None = None
) -> None:
    """Write ``path`` to ``output``, with strength 1 where targets are drawn as what the edit leads to.

    ``effect`` is wanted instead where it is given. ``output`` is ``path`` itself to overwrite it, and a name beside it
    when absent.
    Raises LecoError, and writes nothing, where there is no such strength.
    """
    lora = Lora.read(path)
    target = target_of(lora.path, lora.path if output is path else output)
    lora.refuse_unread()
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
        found = find_calibration(path, subject.pairs, subject.bench(denoiser, network), drift_limit, effect)
    metadata = _metadata(lora, found, subject.pairs)
    try:
        write_tensors(target, scaled(lora, found.strength), metadata)
        if is_sidecar(lora.path.with_suffix(".json")):
            write_atomically(target.with_suffix(".json"), sidecar(metadata))
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}", fix="choose another --output") from None
    page.prose(_report(found, subject.pairs, target, drift_limit))


def find_calibration(
    path: Path, pairs: Sequence[PromptPair], bench: Bench, drift_limit: float, effect: float | None = None
) -> Calibration:
    """The strength at which the LoRA of ``path`` has the whole effect, or another one, and the range around it."""
    asking = [pair for pair in pairs if asks(pair)]
    sides = sorted({1.0 if pair.multiplier > 0 else -1.0 for pair in asking})
    before, strength = _search(path, bench, sides, unit(asking), effect)
    measured = _measure(bench, sides, [strength * multiple for multiple in _GRID], strength, drift=True)
    # a slider that goes too far stops growing; what is taken away can be taken further than there is any of it
    most = _FURTHEST * (effect or measured.whole) if len(sides) == 1 else math.inf
    ends = {side: end_of(measured, side, strength, drift_limit, most) for side in sides}
    return Calibration(
        before=before,
        strength=strength,
        effect=measured.at_own_side(strength),
        by_side={side: abs(measured.effect(side * strength).along) for side in sides},
        drift=measured.drift(max(sides) * strength),
        reached=fmean(measured.reached(side * strength) or 0.0 for side in sides),
        low=0.0 - ends.get(-1.0, 0.0),
        high=ends.get(1.0, 0.0),
    )


def _search(
    path: Path, bench: Bench, sides: Sequence[float], first: float, effect: float | None
) -> tuple[float, float]:
    """(effect at the first strength, strength with the whole ``effect``)."""
    strength, whole = first, 1.0
    found: list[float] = []
    for _ in range(_ROUNDS):
        measured = _measure(bench, sides, [strength], strength)
        whole = effect or measured.whole
        found.append(measured.at_own_side(strength).along)
        if abs(found[-1] / whole - 1) < _CLOSE:
            return found[0], strength
        if found[-1] <= 0:
            raise NetworkError(
                f"{path} moves away from its concept at strength {strength:g} (effect {amount(found[-1])})",
                fix="name the prompts that it was trained with; use negative strengths if it was trained the other way",
            )
        strength *= min(max(whole / found[-1], 1 / _MOST_CHANGE), _MOST_CHANGE)
        if strength > _STRONGEST * first:
            break
    raise NetworkError(
        f"{path} has no strength with the whole effect, {amount(whole)}: it has {amount(found[0])} at {first:g} and "
        f"at most {amount(max(found))}",
        fix="train it longer or at a higher lr, or name the prompts that it was trained with",
    )


def _measure(
    bench: Bench, sides: Sequence[float], sizes: Sequence[float], walk_strength: float, *, drift: bool = False
) -> Measured:
    strengths = [side * size for side in sides for size in sizes]
    return bench.measure(strengths, walk_strength=walk_strength, own_side=True, drift=drift)


def end_of(measured: Measured, side: float, strength: float, drift_limit: float, most: float = math.inf) -> float:
    """How many times the useful strength the LoRA can be used at.

    Drift is bounded, the effect by ``most`` and then how far off pictures are, and every step goes further.
    """
    limits = drift_limit, most, FAR_OFF if most < math.inf else math.inf
    last, before = 0.0, (0.0, 0.0, 0.0)
    for multiple in _GRID:
        here = side * strength * multiple
        found = measured.effect(here)
        ahead = Effect(side * found.along, found.beside)
        now = measured.drift(here) or 0.0, ahead.along, ahead.off
        if now[1] <= before[1]:
            return last
        crossed = [
            (limit - was) / (is_ - was) for limit, was, is_ in zip(limits, before, now, strict=True) if is_ > limit
        ]
        if crossed:
            return int(10 * (last + min(crossed) * (multiple - last))) / 10
        last, before = multiple, now
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
        # what was asked at its multiplier is at strength 1 from now on
        own = tuple(p.model_copy(update={"multiplier": p.multiplier / trained_at}) for p in lora.pairs)
        metadata = with_pairs(metadata, own)
    return {
        **metadata,
        "ss_leco_calibrated": f"{found.strength:.4g}",
        **effect_metadata(
            {
                "effect": found.effect.along,
                "side_effect": found.effect.beside,
                "drift": found.drift,
                "goal_reached": found.reached,
            }
        ),
        "ss_leco_strength_range": f"{found.low:g}..{found.high:g}",
        "modelspec.usage_hint": f"strength 1; can be used from {found.low:g} to {found.high:g}; no trigger word",
        "modelspec.lora_default_weight": "1",
    }


def _report(found: Calibration, pairs: Sequence[PromptPair], target: Path, drift_limit: float) -> list[str]:
    ends = ", ".join(f"{amount(effect)} at {side:+g}" for side, effect in found.by_side.items())
    return [
        f"as it was: {effect_in_words(pairs, found.before)}",
        f"useful strength: {found.strength:.2f}, effect {amount(found.effect.along)} ({ends}), side effect "
        f"{amount(found.effect.beside)}, drift {amount(found.drift)}, goal reached {percentage(found.reached)}",
        f"range: {found.low:g} to {found.high:g} in the new strength "
        f"(drift at most {amount(drift_limit)}, every step goes further, and no more is taken away than there is)",
        f"written: {target}, whose strength 1 is what {found.strength:.2f} was",
    ]
