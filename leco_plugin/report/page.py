"""One self-contained HTML page: pictures under sliders, curves, and what was asked; nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from PIL import Image

from leco_plugin.pictures.strips import BASE, label
from leco_plugin.report.curves import Curve, draw_curve

Rows = Sequence[tuple[str, str]]
_LONGEST_SIDE = 768
"""Larger pictures are made smaller: a page is for looking, the files are there."""
_SMALL = 160
_ALL_SHOWN = 8
"""Sentences about pairs that stand open; of more, the rest can be unfolded."""


@dataclass(frozen=True)
class Shot:
    """One prompt and seed at every strength, after one step or several, with one LoRA or several."""

    prompt: str
    seed: int
    files: Mapping[str, Mapping[tuple[int, int], Image.Image]]
    """For each LoRA file by its name, pictures by the number of the step and that of the strength."""


@dataclass(frozen=True)
class Gallery:
    """Pictures that move together."""

    multipliers: tuple[float, ...]
    steps: tuple[int, ...]
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Content:
    """What stands on a page; plain text, in whatever characters."""

    title: str
    subtitle: str
    figures: Rows
    warnings: Sequence[str]
    asked: Sequence[str]
    galleries: Sequence[Gallery]
    without_pictures: str
    """Why there are none."""
    curves: Sequence[Curve]
    settings: Rows
    options: Rows
    footer: str


def render(content: Content) -> str:
    """The page as HTML."""
    template = files("leco_plugin.report").joinpath("page.html").read_text("utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    return Template(template).substitute(
        # the page's own script is the only one that a browser runs, whatever prompts hold
        script_hash=f"sha256-{digest}",
        title=escape(content.title),
        subtitle=escape(content.subtitle),
        sections="\n".join(_sections(content)),
        footer=escape(content.footer),
    )


def _sections(content: Content) -> Iterator[str]:
    if content.figures:
        cells = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in content.figures)
        yield f'<section aria-label="Figures"><dl class="figures">{"".join(cells)}</dl></section>'
    if content.warnings:
        yield f'<section class="warnings"><h2>Warnings</h2><ul>{_items(content.warnings)}</ul></section>'
    if content.asked:
        yield f"<section><h2>What was asked</h2>{_asked(content.asked)}</section>"
    yield from (_gallery(gallery, number) for number, gallery in enumerate(content.galleries))
    if not content.galleries:
        yield f"<section><h2>Pictures</h2><p>{escape(content.without_pictures)}</p></section>"
    curves = "".join(map(draw_curve, content.curves))
    if curves:
        yield f'<section><h2>Curves</h2><div class="curves">{curves}</div></section>'
    if content.settings or content.options:
        every = f"<details><summary>All options</summary>{_table(content.options)}</details>" if content.options else ""
        yield f"<section><h2>Settings</h2>{_table(content.settings)}{every}</section>"


def _items(texts: Iterable[str]) -> str:
    return "".join(f"<li>{escape(text)}</li>" for text in texts)


def _asked(sentences: Sequence[str]) -> str:
    first, rest = sentences[:_ALL_SHOWN], sentences[_ALL_SHOWN:]
    more = (
        f"<details><summary>{len(rest)} more</summary><ul class='asked'>{_items(rest)}</ul></details>" if rest else ""
    )
    return f'<ul class="asked">{_items(first)}</ul>{more}'


def _table(rows: Rows) -> str:
    cells = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _gallery(gallery: Gallery, number: int) -> str:
    labels = [label(multiplier) for multiplier in gallery.multipliers]
    nearest_to_one = min(gallery.multipliers, key=lambda multiplier: abs(multiplier - 1))
    start, newest = gallery.multipliers.index(nearest_to_one), len(gallery.steps) - 1
    sliders = [_slider("strength", "Strength of the LoRA", labels, start, number)]
    if newest > 0:
        sliders.append(_slider("step", "After training step", list(map(str, gallery.steps)), newest, number))
    shots = "".join(_shot(shot, gallery, start, newest) for shot in gallery.shots)
    heading = "Pictures" if not number else f"Pictures, set {number + 1}"
    return (
        f'<section data-pictures><h2>{heading}</h2><div class="sliders">{"".join(sliders)}</div>'
        f'<div class="shots">{shots}</div></section>'
    )


def _slider(name: str, title: str, labels: Sequence[str], at: int, number: int) -> str:
    place = f"{name}-{number}"
    ticks = "".join(f"<span>{escape(text)}</span>" for text in labels)
    return (
        f'<div><label for="{place}">{title}<output for="{place}" data-shows="{name}">{labels[at]}</output></label>'
        f'<input type="range" id="{place}" name="{name}" min="0" max="{len(labels) - 1}" step="1" value="{at}" '
        f'data-labels="{escape("|".join(labels))}" autocomplete="off">'
        f'<div class="ticks" aria-hidden="true">{ticks}</div></div>'
    )


def _shot(shot: Shot, gallery: Gallery, start: int, newest: int) -> str:
    # a host's own samples need not have one of the base model
    base = min(range(len(gallery.multipliers)), key=lambda column: abs(gallery.multipliers[column] - BASE))
    left = "base model" if gallery.multipliers[base] == BASE else f"strength {gallery.multipliers[base]:+g}"
    first = _image(next(iter(shot.files.values()))[newest, base], f"{shot.prompt}, {left}", "")
    cells = [f"<figure>{first}<figcaption>{left}</figcaption></figure>"]
    for name, frames in shot.files.items():
        of_file = f"{name}, " if name else ""
        shown = "".join(
            _image(
                picture,
                f"{shot.prompt}, {of_file}strength {label(gallery.multipliers[at])}",
                f' data-step="{step}" data-strength="{at}"{"" if (step, at) == (newest, start) else " hidden"}',
            )
            for (step, at), picture in frames.items()
        )
        now = f'strength <span data-shows="strength">{label(gallery.multipliers[start])}</span>'
        cells.append(f"<figure>{shown}<figcaption>{escape(of_file)}{now}</figcaption></figure>")
    wide = " wide" if len(shot.files) > 1 else ""
    return (
        f'<div class="shot{wide}"><p>{escape(shot.prompt) or "(empty prompt)"} <small>seed {shot.seed}</small></p>'
        f"<div>{''.join(cells)}</div></div>"
    )


def _image(picture: Image.Image, description: str, more: str) -> str:
    """An <img> that holds its picture."""
    picture = picture.convert("RGB")
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    data = io.BytesIO()
    small = max(picture.size) <= _SMALL
    # a few pixels are shown enlarged, and would show what WebP leaves out
    picture.save(data, "PNG" if small else "WEBP", **({"optimize": 1} if small else {"quality": 85}))
    kind, text = "png" if small else "webp", base64.b64encode(data.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    style = ' class="small"' if small else ""
    return f'<img src="data:image/{kind};base64,{text}" {size} alt="{escape(description)}"{style}{more}>'
