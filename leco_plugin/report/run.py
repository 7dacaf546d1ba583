"""What there is of a run: its history, its LoRA, and the pictures that were drawn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from leco_plugin.config.recognise import Kind, expect
from leco_plugin.errors import ConfigError
from leco_plugin.events import PicturesDrawn, Saved
from leco_plugin.observers.history import SUFFIX, History, history_path, read_history
from leco_plugin.pictures.painter import cut
from leco_plugin.report.page import Gallery, Shot

_ENDINGS = (".safetensors", ".ckpt", ".pt")
_STEP = re.compile(r"(-step|_)\d{8,}(-emergency)?$")
"""What the built-in host and ai-toolkit put behind the name of an intermediate file."""
_MOST_STEPS = 6
"""Steps of a run whose pictures go on a page, the first and the last among them."""


@dataclass(frozen=True)
class Run:
    """A run, as far as it left something."""

    folder: Path
    name: str
    history: History | None
    lora: Path | None
    """The newest file of the run, or the one that was asked for."""


def find_run(path: Path) -> Run:
    """The run of a folder, a LoRA file or a history; ConfigError where that is none, or one of several."""
    expect(path, Kind.RUN, Kind.LORA)
    if path.is_dir():
        path = _only(path)
    if not path.is_file():
        raise ConfigError(f"there is no {path}", fix="name the folder of a run, or a LoRA file")
    if path.name.endswith(SUFFIX):
        history = read_history(path)
        files = [event.path for event in history.of(Saved) if event.path.suffix in _ENDINGS and event.path.is_file()]
        return Run(path.parent, history.run.name, history, files[-1] if files else None)
    if path.suffix not in _ENDINGS:
        raise ConfigError(f"{path} is neither a run nor a LoRA", fix=f"name a folder, or a {_ENDINGS[0]} file")
    name = _STEP.sub("", path.stem)
    beside = history_path(path.parent, name)
    return Run(path.parent, name, read_history(beside) if beside.is_file() else None, path)


def _only(folder: Path) -> Path:
    """The one run in a folder: its history, or where there is none its LoRA."""
    for ending in (SUFFIX, *_ENDINGS):
        found = sorted(file for file in folder.glob(f"*{ending}") if not _STEP.search(file.stem))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found)
            raise ConfigError(f"{folder} holds several runs: {names}", fix="name one of these files")
    raise ConfigError(f"{folder} holds no run", fix="name the folder that has the LoRA in it")


def galleries(events: Iterable[PicturesDrawn]) -> list[Gallery]:
    """The pictures of a run that are still there, in groups that have their strengths in common."""
    there = {event.path: event for event in events if event.path.is_file()}.values()
    counts = Counter(event.step for event in there)
    # the run may be drawing right now
    complete = [event for event in there if counts[event.step] == event.of] or there
    groups: dict[tuple[float, ...], list[PicturesDrawn]] = {}
    for event in _beside(complete):
        groups.setdefault(event.multipliers, []).append(event)
    return [_gallery(multipliers, found) for multipliers, found in groups.items()]


@dataclass(frozen=True)
class _Beside(PicturesDrawn):
    """Single pictures of a host that differ in the strength alone, as if they were on one sheet."""

    paths: tuple[Path, ...] = ()


def _beside(events: Iterable[PicturesDrawn]) -> Iterator[PicturesDrawn]:
    """Sheets as they are, and single pictures of a prompt and seed together in the order of their strengths."""
    groups: dict[tuple[int, str, int], list[PicturesDrawn]] = {}
    for event in events:
        if event.framed:
            yield event
        else:
            groups.setdefault((event.step, event.prompt, event.seeds[0]), []).append(event)
    for (step, prompt, seed), group in groups.items():
        row = sorted({one.multipliers: one for one in group}.values(), key=lambda one: one.multipliers)
        strengths = tuple(one.multipliers[0] for one in row)
        paths = tuple(one.path for one in row)
        yield _Beside(paths[0], step, prompt, (seed,), strengths, row[0].number, row[0].of, framed=False, paths=paths)


def _gallery(multipliers: tuple[float, ...], events: list[PicturesDrawn]) -> Gallery:
    rows: dict[tuple[int, str, int], dict[int, tuple[PicturesDrawn, int]]] = {}
    for event in events:
        for number, seed in enumerate(event.seeds):
            rows.setdefault((event.number, event.prompt, seed), {})[event.step] = event, number
    # a job may be resumed with other prompts: those that were drawn last, at the steps that all of them have
    last = max(event.step for event in events)
    shown = {key: by_step for key, by_step in rows.items() if last in by_step}
    steps = _some(sorted(set.intersection(*(set(by_step) for by_step in shown.values()))))
    shots = []
    for (_, prompt, seed), by_step in shown.items():
        frames = {
            (place, column): picture
            for place, step in enumerate(steps)
            for column, picture in enumerate(_row(*by_step[step]))
        }
        shots.append(Shot(prompt, seed, {"": frames}))
    return Gallery(multipliers, tuple(steps), tuple(shots))


def _row(event: PicturesDrawn, number: int) -> list[Image.Image]:
    try:
        if isinstance(event, _Beside):
            return [_whole(path) for path in event.paths]
        with Image.open(event.path) as sheet:
            return cut(sheet.convert("RGB"), len(event.seeds), len(event.multipliers))[number]
    except OSError as error:
        raise ConfigError(f"{event.path} cannot be read as a picture: {error}", fix="delete it") from None


def _whole(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _some(steps: list[int]) -> list[int]:
    """At most so many of ``steps``, evenly, with the first and the last."""
    most = min(_MOST_STEPS, len(steps))
    return [steps[round(number * (len(steps) - 1) / max(most - 1, 1))] for number in range(most)]
