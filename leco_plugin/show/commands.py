"""The arguments of `leco preview` and `leco report`; what runs them is imported when it is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from leco_plugin.config.kinds import SamplerName
from leco_plugin.config.strengths import parse_strengths
from leco_plugin.tools.commands import Commands, take_strengths_below_zero


def add_show(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add preview and report to ``commands``."""
    _add_preview(commands)
    _add_report(commands)


def _add_preview(commands: Commands[argparse.ArgumentParser]) -> None:
    preview = commands.add_parser("preview", help="draw a LoRA at several strengths, beside the base model")
    preview.add_argument("file", type=Path, metavar="FILE", help="LoRA file of any trainer, or the folder of a run")
    preview.add_argument(
        "--prompt", action="append", default=[], metavar="PROMPT", help="default: what it was trained on"
    )
    preview.add_argument("--negative", default="", metavar="PROMPT", help="negative prompt")
    preview.add_argument("--strengths", metavar="A..B", help="A..B:STEP or a list; default: -2..2 for a slider")
    preview.add_argument("--seeds", type=_seeds, default=(0,), metavar="N,N", help="one row each (default: 0)")
    preview.add_argument(
        "--from-step", type=_count, default=0, metavar="K", help="switch the LoRA on after K sampler steps"
    )
    preview.add_argument("--width", type=_side, metavar="N", help="pixels; default: as it was trained")
    preview.add_argument("--height", type=_side, metavar="N", help="pixels; default: as it was trained")
    preview.add_argument("--steps", type=_steps, default=20, metavar="N", help="sampler steps (%(default)s)")
    preview.add_argument("--guidance", type=_guidance, default=7.0, metavar="X", help="of the pictures (%(default)s)")
    preview.add_argument("--sampler", choices=get_args(SamplerName), default="ddim", help="default: %(default)s")
    _add_model(preview)
    preview.add_argument("--output", type=Path, metavar="DIR", help="default: FILE-preview")
    preview.set_defaults(command=_preview)
    take_strengths_below_zero(preview)


def _add_report(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "put a run on one page: what was asked, curves, settings, and pictures under a slider"
    report = commands.add_parser("report", help=about)
    report.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a LoRA file")
    report.add_argument("--output", type=Path, metavar="FILE", help="default: NAME.report.html beside the LoRA")
    report.add_argument("--no-pictures", action="store_true", help="draw none where the run has none, and show none")
    _add_model(report)
    report.set_defaults(command=_report)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="MODEL", help="default: what the run or the file tells")
    parser.add_argument("--device", metavar="DEVICE", help="default: auto")


def _preview(options: argparse.Namespace) -> int:
    from leco_plugin.show.draw import Wanted, preview

    wanted = Wanted(
        prompts=tuple(options.prompt),
        negative=options.negative,
        strengths=parse_strengths(options.strengths) if options.strengths else (),
        seeds=options.seeds,
        height=options.height,
        width=options.width,
        steps=options.steps,
        guidance_scale=options.guidance,
        sampler=options.sampler,
        from_step=options.from_step,
        model=options.model,
        device=options.device,
    )
    preview(options.file, wanted, options.output)
    return 0


def _report(options: argparse.Namespace) -> int:
    from leco_plugin.show.draw import Wanted
    from leco_plugin.show.report import report

    wanted = Wanted(model=options.model, device=options.device)
    report(options.run, options.output, pictures=not options.no_pictures, wanted=wanted)
    return 0


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(_within(int(part), 0, 2**63 - 1) for part in text.split(","))


def _count(text: str) -> int:
    return _within(int(text), 0, 1000)


def _steps(text: str) -> int:
    return _within(int(text), 1, 1000)


def _side(text: str) -> int:
    return _within(int(text), 8, 2**14)


def _guidance(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1000:
        raise ValueError
    return number


def _within(number: int, least: int, most: int) -> int:
    if not least <= number <= most:
        raise ValueError
    return number
