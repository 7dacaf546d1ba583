"""`leco preview`."""

from __future__ import annotations

import argparse
from pathlib import Path

from leco_plugin.commands.arguments import Commands, prompt, real, seed, take_strengths_below_zero, whole
from leco_plugin.commands.codes import OK
from leco_plugin.config.names import SAMPLERS


def add(commands: Commands) -> None:
    """Add `leco preview`."""
    preview = commands.add_parser("preview", help="draw a LoRA at several strengths, beside the base model")
    preview.add_argument("file", type=Path, metavar="FILE", help="LoRA file of any trainer, or the folder of a run")
    about = "default: what it was trained on"
    preview.add_argument("--prompt", type=prompt, action="append", default=[], metavar="PROMPT", help=about)
    preview.add_argument("--negative", type=prompt, default="", metavar="PROMPT", help="negative prompt")
    preview.add_argument("--strengths", metavar="A..B", help="A..B:STEP or a list; default: -2..2 for a slider")
    preview.add_argument("--seeds", type=_seeds, default=(0,), metavar="N,N", help="one row each (default: 0)")
    preview.add_argument(
        "--from-step", type=whole(0, 1000), default=0, metavar="K", help="switch the LoRA on after K sampler steps"
    )
    preview.add_argument("--width", type=whole(8, 2**14), metavar="N", help="pixels; default: as it was trained")
    preview.add_argument("--height", type=whole(8, 2**14), metavar="N", help="pixels; default: as it was trained")
    preview.add_argument(
        "--steps", type=whole(1, 1000), metavar="N", help="sampler steps; default: 20, or a distilled model's own"
    )
    preview.add_argument("--guidance", type=real(0, 1000), metavar="X", help="default: 7, or as the model is used")
    preview.add_argument("--sampler", choices=SAMPLERS, default="ddim", help="default: %(default)s")
    add_model(preview)
    preview.add_argument("--output", type=Path, metavar="DIR", help="default: FILE-preview")
    preview.set_defaults(command=_preview)
    take_strengths_below_zero(preview)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add which model draws, and where."""
    parser.add_argument("--model", metavar="MODEL", help="default: what the run or the file tells")
    parser.add_argument("--device", metavar="DEVICE", help="default: auto")


def _preview(options: argparse.Namespace) -> int:
    from leco_plugin.config.strengths import parse_strengths
    from leco_plugin.report.draw import Wanted, preview

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
    return OK


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(seed(part) for part in text.split(","))
