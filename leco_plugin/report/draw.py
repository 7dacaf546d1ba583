"""Strips of a LoRA file of any trainer, and `leco preview`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from leco_plugin.config.sample import SampleConfig
from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.contracts import Denoiser
from leco_plugin.engine.setup import fit
from leco_plugin.errors import ConfigError
from leco_plugin.lora.file import Lora
from leco_plugin.lora.subject import Asked, find_model, job_for, load_model
from leco_plugin.network.loaded import LoadedLora
from leco_plugin.observers.console.pages import Page
from leco_plugin.pictures.painter import Painter, PictureSettings
from leco_plugin.pictures.strips import (
    Strip,
    check_strips,
    draw_strip,
    prompts_of,
    save_picture,
    total_ticks,
    with_base,
)
from leco_plugin.report.run import Run, find_run

_SLIDER, _ONE_WAY = (-2.0, -1.0, 0.0, 1.0, 2.0), (0.0, 0.5, 1.0, 1.5)
_MOST_PROMPTS = 3


@dataclass(frozen=True)
class Wanted:
    """What the command line says of the pictures; the file tells what it leaves open."""

    prompts: tuple[str, ...] = ()
    negative: str = ""
    strengths: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0,)
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str = "ddim"
    from_step: int = 0
    model: str | None = None
    device: str | None = None


def preview(file: Path, wanted: Wanted, output: Path | None) -> None:
    """Draw strips of a LoRA into the folder ``output``, one PNG a prompt, each written when it is drawn."""
    page, run = Page(), find_run(file)
    folder = output or run.folder / f"{(run.lora or file).stem}-preview"
    with opened(page, run, wanted) as drawing:
        for number, asked in enumerate(drawing.strips, start=1):
            path = folder / f"{number:02d}-{_file_name(asked.prompt)}.png"
            picture = draw_strip(drawing.painter, asked)
            try:
                save_picture(path, picture)
            except OSError as error:
                raise ConfigError(f"cannot write {path}: {error.strerror}", fix="choose another --output") from None
            page.lines([f"drew {path}"])


@dataclass(frozen=True)
class Drawing:
    """Strips to be drawn, and what draws them."""

    strips: Sequence[Strip]
    painter: Painter


@contextmanager
def opened(page: Page, run: Run, wanted: Wanted) -> Iterator[Drawing]:
    """Block in which the run's LoRA is on its model; a bar shows how far the drawing is.

    Raises ConfigError where model or prompts are not to be known, ModelError and NetworkError where they do not fit.
    """
    if run.lora is None:
        raise ConfigError(f"the LoRA of {run.name} is not in {run.folder}", fix="name the LoRA file")
    lora = Lora.read(run.lora)
    pairs = run.history.run.pairs if run.history else lora.pairs
    prompts = wanted.prompts or own_prompts(pairs)
    if not prompts:
        raise ConfigError(f"{lora.path} does not tell what it was trained with", fix="name a prompt with --prompt")
    job = _job(run, lora, pairs, wanted)
    with page.working(f"loading {job.model.name_or_path}"):
        denoiser = load_model(job)
    strips = strips_of(prompts, pairs, wanted, denoiser, job)
    check_strips(denoiser, strips)
    network = LoadedLora(denoiser.module, lora)
    page.lines(network.left_out.sentences())
    with page.progress("drawing", total_ticks(strips)) as tick:
        yield Drawing(strips, Painter(denoiser, network, prompts_of(strips), PictureSettings(), tick))


def own_prompts(pairs: Sequence[PromptPair]) -> tuple[str, ...]:
    """The first targets of what the LoRA was asked to change."""
    return tuple(dict.fromkeys(pair.target for pair in pairs if not pair.keeps))[:_MOST_PROMPTS]


def _job(run: Run, lora: Lora, pairs: Sequence[PromptPair], wanted: Wanted) -> JobConfig:
    """A job that loads the model: the run's own where it is known."""
    if run.history and run.history.run.job and wanted.model is None:
        return run.history.run.job.model_copy(update={"device": wanted.device or "auto"})
    model = find_model([lora], Asked(wanted.model))
    return job_for(tuple(pairs) or (PromptPair(target="", positive=""),), model, wanted.device)


def strips_of(
    prompts: Sequence[str], pairs: Sequence[PromptPair], wanted: Wanted, denoiser: Denoiser, job: JobConfig
) -> list[Strip]:
    """A strip for each of ``prompts``; what is not wanted otherwise is as the pairs and the model have it."""
    usually = fit(job.model_copy(update={"sample": SampleConfig()}), denoiser).sample
    usual = 1024 if denoiser.family == "sdxl" else 512
    height, width = max((pair.resolution for pair in pairs), default=(usual, usual))
    settings = PictureSettings(
        height=wanted.height or height,
        width=wanted.width or width,
        steps=wanted.steps or usually.sample_steps,
        guidance_scale=usually.guidance_scale if wanted.guidance_scale is None else wanted.guidance_scale,
        sampler=wanted.sampler,
        from_step=wanted.from_step,
    )
    both_ways = any(pair.multiplier < 0 for pair in pairs) or not pairs
    strengths = with_base(wanted.strengths or (_SLIDER if both_ways else _ONE_WAY))
    return [Strip(prompt, wanted.seeds, strengths, settings, wanted.negative) for prompt in prompts]


def _file_name(prompt: str) -> str:
    """The beginning of a prompt in letters that every system takes in a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "prompt"
