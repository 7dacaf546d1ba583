"""`leco evaluate`: effect, side effect and drift over strengths, for files of any trainer side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leco_plugin.atomic import write_atomically
from leco_plugin.config.words import effect_in_words
from leco_plugin.contracts import Denoiser
from leco_plugin.engine.figures import Measured
from leco_plugin.engine.measure import asks, unit
from leco_plugin.errors import ConfigError
from leco_plugin.lora.file import Lora
from leco_plugin.lora.subject import Asked, Subject, find_subject, load_model
from leco_plugin.network.matched import LeftOut
from leco_plugin.observers.console.figures import amount, percentage
from leco_plugin.observers.console.pages import Page


@dataclass(frozen=True)
class Evaluated:
    """What was found for one file."""

    lora: Lora
    layers: int
    left_out: LeftOut
    measured: Measured


@dataclass(frozen=True)
class Evaluation:
    """What was found for several files, and with what."""

    subject: Subject
    denoiser: Denoiser
    found: Sequence[Evaluated]


def evaluate(files: Sequence[Path], asked: Asked, strengths: Sequence[float], output: Path | None) -> Evaluation:
    """Measure ``files`` at ``strengths``, print a table, and write ``output`` as JSON where it is given."""
    loras = [Lora.read(path) for path in files]
    subject = find_subject(loras, asked)
    page = Page()
    with page.working(f"loading {subject.job.model.name_or_path}"):
        denoiser = load_model(subject.job)
    found = []
    # what the pairs were trained at is always measured: each pair is judged at it
    own = {side * unit([pair for pair in subject.pairs if asks(pair)]) for side in (-1, 1)}
    with page.progress("measuring", len(loras) * subject.states) as tick:
        for lora in loras:
            with subject.attached(lora, denoiser) as network:
                measured = subject.bench(denoiser, network, tick).measure(sorted({*strengths, *own}))
                found.append(Evaluated(lora, network.layers, network.left_out, measured))
    _show(page, subject, found, strengths)
    if output is not None:
        _write(output, _fields(subject, found, strengths))
    return Evaluation(subject, denoiser, found)


def summary(one: Evaluated) -> str:
    """What a file does at the strength that its pairs were trained at, in one line."""
    pairs = [figures.pair for figures in one.measured.pairs]
    effect = one.measured.at_own_side(unit(pairs))
    return f"{effect_in_words(pairs, effect.along)}; side effect {amount(effect.beside)}"


def _show(page: Page, subject: Subject, found: Sequence[Evaluated], strengths: Sequence[float]) -> None:
    page.lines(_facts(subject))
    names = short_names([one.lora.path for one in found])
    several = len(found) > 1
    page.lines(f"{number}: {name}" for number, name in enumerate(names, start=1)) if several else page.lines(names)
    # a row for each file: columns for each would be cut on a narrow terminal
    head = ["strength", *(["file"] if several else []), "effect", "side effect", "drift", "goal reached"]
    rows = []
    for strength in strengths:
        for number, one in enumerate(found, start=1):
            figures = _figures(one.measured, strength)
            cells = [amount(figures[what]) for what in ("effect", "side_effect", "drift")]
            reached = percentage(figures["goal_reached"])
            rows.append([f"{strength:g}", *([str(number)] if several else []), *cells, reached])
    page.table("", head, rows)
    for name, one in zip(names, found, strict=True):
        page.prose(f"{name}: {line}" if several else line for line in _remarks(one, strengths))
    page.prose(
        [
            "effect: how far pictures move, where 1 is what positive differs from unconditional; side effect: how far "
            "they move besides; drift: how far those of prompts that shall stay move, in the same unit",
            "goal: 0 % as before, 100 % as asked, below 0 further from it than before",
        ]
    )
    if len({pair.multiplier > 0 for pair in subject.pairs if asks(pair)}) > 1:
        page.prose(
            ["the table has the effect on all pairs at a strength, the sentence on each pair at its own end alone"]
        )


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell it from all others."""
    whole = [path.resolve() for path in paths]

    def short(path: Path) -> str:
        others = [other for other in whole if other != path]
        ends = (path.parts[-count:] for count in range(1, len(path.parts)))
        unlike = (end for end in ends if all(other.parts[-len(end) :] != end for other in others))
        return str(Path(*next(unlike, path.parts)))

    return [short(path) for path in whole]


def _facts(subject: Subject) -> Iterator[str]:
    course, asking = subject.course, sum(map(asks, subject.pairs))
    yield f"model: {subject.job.model.name_or_path}"
    yield f"measured on {course.samples} noise samples x {course.states} states of {asking} pairs, LoRA on"
    yield f"untouched prompts: {', '.join(map(repr, subject.untouched)) or 'none'}"


def _remarks(one: Evaluated, strengths: Sequence[float]) -> Iterator[str]:
    even = one.measured.monotonicity(strengths)
    if one.measured.still:
        yield "it does nothing: the model predicts the same at every strength"
    else:
        yield summary(one)
    if even is not None and not one.measured.still and len(strengths) > 2:
        yield f"monotonicity {even:.2f} (1: every strength goes further than the one before)"
    yield from one.left_out.sentences()


def _fields(subject: Subject, found: Sequence[Evaluated], strengths: Sequence[float]) -> dict[str, object]:
    course = subject.course
    return {
        "model": subject.job.model.name_or_path,
        "untouched": list(subject.untouched),
        "seeds": course.samples,
        "states": course.states,
        "strengths": list(strengths),
        "files": [_file_fields(one, strengths) for one in found],
    }


def _file_fields(one: Evaluated, strengths: Sequence[float]) -> dict[str, object]:
    measured = one.measured
    by_strength = [{"strength": at, **_figures(measured, at)} for at in strengths]
    return {
        "file": str(one.lora.path),
        "layers": one.layers,
        "text_encoder_keys_left_out": one.left_out.text,
        "unknown_keys_left_out": list(one.left_out.keys),
        "does_nothing": measured.still,
        "monotonicity": _finite(measured.monotonicity(strengths)),
        "by_strength": by_strength,
        "pairs": [_pair_fields(measured, number) for number in range(len(measured.pairs))],
        "drift_by_prompt": {
            prompt: {f"{at:g}": _finite(replace(measured, moved={prompt: each}).drift(at)) for at in each}
            for prompt, each in measured.moved.items()
        },
    }


def _figures(measured: Measured, strength: float) -> dict[str, float | None]:
    effect = measured.effect(strength)
    figures = {
        "effect": effect.along,
        "side_effect": effect.beside,
        "drift": measured.drift(strength),
        "goal_reached": measured.reached(strength),
    }
    return {name: _finite(figure) for name, figure in figures.items()}


def _pair_fields(measured: Measured, number: int) -> dict[str, object]:
    """What the LoRA does to one pair at its own multiplier."""
    figures, strength = measured.pairs[number], unit([one.pair for one in measured.pairs])
    alone = replace(measured, pairs=(figures,))
    return {
        **figures.pair.model_dump(mode="json", include={"target", "positive", "unconditional", "neutral", "action"}),
        "multiplier": figures.pair.multiplier,
        **_figures(alone, math.copysign(strength, figures.pair.multiplier)),
        # towards what this pair asks for, whichever end of a slider that is
        "effect": alone.at_own_side(strength).along,
        "contrast": _finite(figures.contrast),
    }


def _finite(number: float | None) -> float | None:
    """JSON has no other numbers."""
    return number if number is not None and math.isfinite(number) else None


def _write(path: Path, fields: dict[str, object]) -> None:
    text = json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", fix="choose another --json") from None
