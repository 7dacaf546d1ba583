"""`leco evaluate --pictures`: strips of several files beside one another on one page, under one slider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leco_plugin import __version__
from leco_plugin.atomic import write_atomically
from leco_plugin.config.words import equation
from leco_plugin.errors import ConfigError
from leco_plugin.lora.evaluate import Evaluation, short_names, summary
from leco_plugin.observers.console.pages import Page
from leco_plugin.pictures.painter import Painter, PictureSettings
from leco_plugin.pictures.strips import check_strips, draw_rows, prompts_of, total_ticks
from leco_plugin.report.draw import Wanted, own_prompts, strips_of
from leco_plugin.report.page import Content, Gallery, Shot, render

_SEEDS = (0, 1)


def compare(evaluation: Evaluation, strengths: Sequence[float], output: Path) -> None:
    """Draw what the evaluated files make of their targets, and write the page.

    Raises ModelError where the model draws no pictures, ConfigError where ``output`` cannot be written.
    """
    page, subject, denoiser = Page(), evaluation.subject, evaluation.denoiser
    wanted = Wanted(strengths=tuple(strengths), seeds=_SEEDS)
    strips = strips_of(own_prompts(subject.pairs), subject.pairs, wanted, denoiser, subject.job)
    check_strips(denoiser, strips)
    names = short_names([one.lora.path for one in evaluation.found])
    drawn = {}
    with page.progress("drawing", total_ticks(strips) * len(names)) as tick:
        for number, one in enumerate(evaluation.found, start=1):
            with subject.attached(one.lora, denoiser) as network:
                painter = Painter(denoiser, network, prompts_of(strips), PictureSettings(), tick)
                rows = [row for asked in strips for row in draw_rows(painter, asked)]
            # the same file may be named twice
            drawn[f"{number}: {names[number - 1]}"] = [{(0, at): cell for at, cell in enumerate(row)} for row in rows]
    places = [(asked.prompt, seed) for asked in strips for seed in asked.seeds]
    shots = [
        Shot(prompt, seed, {name: frames[place] for name, frames in drawn.items()})
        for place, (prompt, seed) in enumerate(places)
    ]
    _write(output, _content(evaluation, names, Gallery(strips[0].multipliers, (0,), tuple(shots))))
    page.lines([f"the pictures are on {output}"])


def _content(evaluation: Evaluation, names: Sequence[str], gallery: Gallery) -> Content:
    subject = evaluation.subject
    return Content(
        title=f"{len(names)} LoRA files side by side" if len(names) > 1 else names[0],
        subtitle=f"On {subject.job.model.name_or_path}",
        figures=(),
        warnings=(),
        asked=list(dict.fromkeys(equation(pair) for pair in subject.pairs)),
        galleries=[gallery],
        without_pictures="",
        curves=(),
        settings=[(name, summary(one)) for name, one in zip(names, evaluation.found, strict=True)],
        options=(),
        footer=f"leco_plugin {__version__}",
    )


def _write(output: Path, content: Content) -> None:
    try:
        write_atomically(output, render(content).encode())
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}", fix="choose another --pictures") from None
