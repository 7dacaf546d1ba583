"""`leco report`: a run on one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from leco_plugin import __version__
from leco_plugin.atomic import write_atomically
from leco_plugin.config.names import AUTO
from leco_plugin.config.run import short_name
from leco_plugin.config.schema import PromptPair
from leco_plugin.config.words import equation, quote
from leco_plugin.errors import ConfigError, LecoError
from leco_plugin.events import PicturesDrawn, RunEnded, RunStarted, StepDone, Warned
from leco_plugin.lora.file import Lora
from leco_plugin.observers.console.figures import amount, duration, percentage
from leco_plugin.observers.console.pages import Page
from leco_plugin.observers.history import History
from leco_plugin.pictures.strips import draw_rows
from leco_plugin.report.curves import Curve
from leco_plugin.report.draw import Wanted, opened
from leco_plugin.report.page import Content, Gallery, Rows, Shot, render
from leco_plugin.report.run import Run, find_run, galleries

_LONGEST = 300
"""Characters of one value of the metadata that are shown."""


def report(path: Path, output: Path | None, *, pictures: bool, wanted: Wanted) -> None:
    """Write the page of a run; its pictures are those drawn while it went on, else new ones of its LoRA.

    Raises ConfigError where there is no run, or ``output`` cannot be written.
    """
    page, run = Page(), find_run(path)
    target = output or run.folder / f"{run.name}.report.html"
    shown, without = _pictures(page, run, wanted) if pictures else ([], "Left out.")
    html = render(_content(run, shown, without))
    try:
        write_atomically(target, html.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}", fix="choose another --output") from None
    if without and pictures:
        page.lines([f"warning: the report has no pictures: {without}"])
    page.lines([f"the report is {target}"])


def page_of(run: Run) -> str:
    """The page of a run as it is now, with the pictures that were drawn so far."""
    drawn = galleries(run.history.of(PicturesDrawn)) if run.history else []
    return render(_content(run, drawn, "None were drawn so far."))


def _pictures(page: Page, run: Run, wanted: Wanted) -> tuple[list[Gallery], str]:
    """Pictures, or the reason why there are none."""
    drawn = galleries(run.history.of(PicturesDrawn)) if run.history else []
    if drawn:
        return drawn, ""
    try:
        return _draw(page, run, wanted), ""
    except LecoError as error:
        # who names a model wants its pictures
        if wanted.model:
            raise
        return [], str(error.problems[0])


def _draw(page: Page, run: Run, wanted: Wanted) -> list[Gallery]:
    shots = []
    with opened(page, run, wanted) as drawing:
        for asked in drawing.strips:
            rows = draw_rows(drawing.painter, asked)
            shots += [
                Shot(asked.prompt, seed, {"": {(0, column): picture for column, picture in enumerate(row)}})
                for seed, row in zip(asked.seeds, rows, strict=True)
            ]
    return [Gallery(drawing.strips[0].multipliers, (0,), tuple(shots))]


def _content(run: Run, shown: Sequence[Gallery], without: str) -> Content:
    lora = Lora.read(run.lora) if run.lora else None
    history = run.history
    pairs = history.run.pairs if history else lora.pairs if lora else ()
    name = run.lora.name if run.lora else run.name
    return Content(
        title=run.name,
        subtitle=_how_it_went(history) if history else "A LoRA file without the history of its training",
        figures=_figures(history) if history else (),
        warnings=_warnings(history) if history else (),
        asked=[*_sentences(pairs), *(_preserved(history.run.preserve) if history else ())],
        galleries=shown,
        without_pictures=without,
        curves=_curves(history.of(StepDone)) if history else (),
        settings=_facts(history) if history else (),
        options=_options(history, lora),
        footer=f"{name} · leco_plugin {__version__}",
    )


def _how_it_went(history: History) -> str:
    steps, ended = history.of(StepDone), [event for event in history.last_part if isinstance(event, RunEnded)]
    done, planned = steps[-1].step if steps else 0, history.of(RunStarted)[-1].steps
    if not ended:
        return f"{done} of {planned} steps; it still runs, or was cut off"
    if ended[-1].interrupted:
        return f"Stopped after {done} of {planned} steps"
    how = (
        f"{done} steps, as many as were asked for" if done == planned else f"Far enough after {done} of {planned} steps"
    )
    return f"{how}: {ended[-1].means}" if ended[-1].means else how


def _figures(history: History) -> Rows:
    steps = history.of(StepDone)
    if not steps:
        return ()
    last = steps[-1]
    return (
        ("Effect at strength 1", amount(last.effect)),
        ("Side effect", amount(last.side_effect)),
        ("Drift of other prompts", amount(last.drift)),
        ("Goal reached", percentage(last.goal_reached)),
        ("Steps", str(last.step)),
        ("Time of training", duration(sum(step.seconds for step in steps))),
    )


def _warnings(history: History) -> list[str]:
    return list(dict.fromkeys(event.message for event in history.last_part if isinstance(event, Warned)))


def _sentences(pairs: Sequence[PromptPair]) -> list[str]:
    """Each pair in words, once whatever its resolution."""
    return list(dict.fromkeys(_capitalized(equation(pair)) for pair in pairs))


def _preserved(prompts: Sequence[str]) -> Iterator[str]:
    return (
        f"Preserve {quote(prompt)}: predict for it what the base model predicts" for prompt in prompts if prompt != AUTO
    )


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _curves(steps: Sequence[StepDone]) -> list[Curve]:
    def points(name: str) -> list[tuple[int, float]]:
        return [(step.step, value) for step in steps if (value := getattr(step, name)) is not None]

    return [
        Curve("Effect", points("effect"), asked=1.0),
        Curve("Drift of other prompts", points("drift")),
        Curve("Goal reached", points("goal_reached"), percent=True, asked=1.0),
        Curve("Loss", [(step.step, step.loss) for step in steps], smooth=True),
    ]


def _facts(history: History) -> Rows:
    """What the run said at its start, without the paths of this machine."""
    model = history.run.model
    facts = history.of(RunStarted)[-1].facts
    return [
        (_capitalized(name), value.replace(model, short_name(model))) for name, value in facts if name != "saved to"
    ]


def _options(history: History | None, lora: Lora | None) -> Rows:
    if history:
        return [(name, str(value)) for name, value in history.run.options.items()]
    return [(name, value[:_LONGEST]) for name, value in sorted(lora.metadata.items())] if lora else ()
