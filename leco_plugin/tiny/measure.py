"""Count how often the tiny model draws what it is told: ``python -m leco_plugin.tiny.measure``.

Full prompts ("a small red star on a white background") over all combinations evenly, each from fresh noise.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from leco_plugin.errors import LecoError, ModelError
from leco_plugin.tiny import BUILTIN, MODEL_FOLDER, WEIGHTS
from leco_plugin.tiny.arguments import Number, Parser, say
from leco_plugin.tiny.pictures import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIDE,
    SIZES,
    Attributes,
    Pixels,
    all_attributes,
    full_prompt,
)
from leco_plugin.tiny.reader import Reading, read

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

VALUES: Final = {"colour": COLOURS, "background": BACKGROUNDS, "size": SIZES, "shape": SHAPES}
_BATCH = 64


@dataclass(frozen=True)
class Share:
    """How many of ``count`` pictures came out ``right``."""

    right: int
    count: int

    def __str__(self) -> str:
        return f"{100.0 * self.right / self.count:5.1f} %  ({self.right} of {self.count})" if self.count else "none"


@dataclass(frozen=True)
class Report:
    """Shares by attribute, by attribute and value, and of pictures with all four right."""

    attributes: dict[str, Share]
    values: dict[str, dict[str, Share]]
    all_four: Share

    def lines(self) -> list[str]:
        """The report as plain text."""
        lines = []
        for name, share in self.attributes.items():
            lines.append(f"{name:12}{share}")
            lines += [f"  {value:10}{part}" for value, part in self.values[name].items() if part.count]
        return [*lines, f"{'all four':12}{self.all_four}"]


def evenly(count: int, seed: int) -> list[Attributes]:
    """``count`` combinations: every one as often as every other, the rest drawn without repeats."""
    every = all_attributes()
    order = np.random.default_rng(seed).permutation(len(every))
    return every * (count // len(every)) + [every[index] for index in order[: count % len(every)]]


def sample(folder: Path, prompts: Sequence[str], guidance: float, steps: int, seed: int) -> Pixels:
    """Pictures for ``prompts``: uint8 (N, 64, 64, 3), sampled in ``steps`` steps from noise of ``seed``."""
    pipeline = _load(folder)
    # Z-Image's pipeline counts guidance from 0
    counted_from = 1.0 if "ZImage" in type(pipeline).__name__ else 0.0
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for start in range(0, len(prompts), _BATCH):
        batch = list(prompts[start : start + _BATCH])
        pictures = pipeline(
            batch,
            height=SIDE,
            width=SIDE,
            guidance_scale=guidance - counted_from,
            num_inference_steps=steps,
            generator=generator,
            output_type="np",
        ).images
        batches.append(np.rint(pictures * 255.0).astype(np.uint8))
    return np.concatenate(batches)


def count_right(wanted: Sequence[Attributes], readings: Sequence[Reading]) -> Report:
    """Compare what each picture shows with what was asked for."""
    pairs = list(zip(wanted, readings, strict=True))

    def share(name: str, value: str | None = None) -> Share:
        hits = [getattr(r, name) == getattr(w, name) for w, r in pairs if value in {None, getattr(w, name)}]
        return Share(sum(hits), len(hits))

    right = sum(all(getattr(r, name) == getattr(w, name) for name in VALUES) for w, r in pairs)
    return Report(
        attributes={name: share(name) for name in VALUES},
        values={name: {value: share(name, value) for value in values} for name, values in VALUES.items()},
        all_four=Share(right, len(pairs)),
    )


def grid(pictures: Pixels, columns: int = 18) -> Image.Image:
    """The pictures (N, h, w, 3) in rows of ``columns``, with a thin line between them."""
    framed = np.pad(pictures, ((0, -len(pictures) % columns), (1, 1), (1, 1), (0, 0)), constant_values=160)
    rows = [np.concatenate(list(framed[start : start + columns]), axis=1) for start in range(0, len(framed), columns)]
    return Image.fromarray(np.concatenate(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 2 where the arguments or the model do not fit."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    wanted = evenly(options.prompts, options.seed)
    prompts = [full_prompt(attributes) for attributes in wanted]
    try:
        pictures = sample(options.model, prompts, options.guidance, options.steps, options.seed)
        if options.picture:
            grid(pictures).save(options.picture)
    except (LecoError, OSError, ValueError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    report = count_right(wanted, [read(picture) for picture in pictures])
    say(json.dumps(asdict(report), indent=2) if options.json else "\n".join(report.lines()))
    return 0


def _load(folder: Path) -> "DiffusionPipeline":
    # this import is slow and talks of torchvision: a mistake in the arguments is told without it
    from diffusers import AutoencoderKL, DiffusionPipeline

    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder} is no diffusers folder: it has no model_index.json")
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    vae = AutoencoderKL.load_config(folder, subfolder="vae")
    shared = AutoencoderKL.from_pretrained(WEIGHTS.get(folder / "vae", folder / "vae"))
    shared.register_to_config(**{name: vae[name] for name in ("scaling_factor", "shift_factor") if name in vae})
    pipeline = DiffusionPipeline.from_pretrained(folder, vae=shared, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _folder(text: str) -> Path:
    return BUILTIN.get(text, Path(text))


def _parser() -> Parser:
    about = "Count how often the model draws its prompt."
    parser = Parser(prog="python -m leco_plugin.tiny.measure", description=about)
    parser.add_argument(
        "--model", type=_folder, default=MODEL_FOLDER, help="builtin:NAME or diffusers folder [builtin:tiny]"
    )
    parser.add_argument("--prompts", type=Number(int, 1), default=540, help="[%(default)s, each combination twice]")
    parser.add_argument("--guidance", type=Number(float, 0, 100), default=3.5, help="[%(default)s]")
    parser.add_argument("--steps", type=Number(int, 1), default=20, help="sampler steps [%(default)s]")
    parser.add_argument("--seed", type=Number(int, 0), default=0, help="[%(default)s]")
    parser.add_argument("--threads", type=Number(int, 1), default=2, help="CPU threads of torch [%(default)s]")
    parser.add_argument("--picture", type=Path, help="write all pictures to this PNG")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
