"""Make the tiny model from nothing: ``python -m leco_plugin.tiny.train --output DIR``.

Stages leave their results in DIR/stages, so a run that was cut goes on where it stopped; DIR/model is the model.
The same seed gives the same model where machine, library versions and the number of threads are the same.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from leco_plugin.errors import TrainingError
from leco_plugin.tiny.architecture import load_tokenizer, new_text_encoder, new_unet, new_vae, write_tokenizer_files
from leco_plugin.tiny.arguments import Parser, WholeNumber, say
from leco_plugin.tiny.export import export
from leco_plugin.tiny.fit import Dice, Stage
from leco_plugin.tiny.stages import draw_set, encode, settle_latents, train_decoder, train_unet, train_vae


@dataclass(frozen=True)
class Plan:
    """Everything that decides the result: the same plan makes the same model."""

    output: Path
    seed: int = 0
    pictures: int = 16000
    vae_steps: int = 2500
    decoder_steps: int = 2000
    unet_steps: int = 9000


def make(plan: Plan) -> Path:
    """Make the model and return its folder, ``plan.output``/model."""
    stages, model = plan.output / "stages", plan.output / "model"
    started = time.monotonic()
    _report(started, f"drawing {plan.pictures} pictures")
    pixels, shown = draw_set(plan.pictures, Dice.of(plan.seed, "pictures"))
    write_tokenizer_files(stages / "tokenizer")
    tokenizer = load_tokenizer(stages / "tokenizer")
    # modules draw their first weights from torch's global generator; fork it so that ours stays our own
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        vae, unet, text_encoder = new_vae(), new_unet(), new_text_encoder(tokenizer)
    vae.to(memory_format=torch.channels_last)
    _report(started, "VAE")
    ground = f"{plan.pictures} pictures"
    train_vae(vae, Stage("vae", plan.seed, plan.vae_steps, 16, 1.5e-3, ground), pixels, stages)
    _report(started, "decoder")
    ground += f", {plan.vae_steps} VAE steps"
    train_decoder(vae, Stage("decoder", plan.seed, plan.decoder_steps, 16, 1e-3, ground, average=0.99), pixels, stages)
    settle_latents(vae, pixels)
    latents = encode(vae, pixels)
    _report(started, "UNet and text encoder")
    ground += f", {plan.decoder_steps} decoder steps"
    stage = Stage("unet", plan.seed, plan.unet_steps, 64, 1e-3, ground, average=0.998, weight_decay=1e-3)
    train_unet(unet, text_encoder, stage, latents, shown, tokenizer, stages)
    export(vae, unet, text_encoder, model)
    _report(started, f"the model is in {model}")
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 2 where the arguments or earlier stages do not fit."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    plan = Plan(
        output=options.output,
        seed=options.seed,
        pictures=options.pictures,
        vae_steps=options.vae_steps,
        decoder_steps=options.decoder_steps,
        unet_steps=options.unet_steps,
    )
    try:
        make(plan)
    except (TrainingError, OSError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    return 0


def _parser() -> Parser:
    plan = Plan(Path("tiny-run"))
    parser = Parser(prog="python -m leco_plugin.tiny.train", description="Make the tiny model from nothing.")
    parser.add_argument("--output", type=Path, default=plan.output, help="folder for stages and model [%(default)s]")
    parser.add_argument("--seed", type=WholeNumber(0), default=plan.seed, help="[%(default)s]")
    parser.add_argument("--pictures", type=WholeNumber(1), default=plan.pictures, help="[%(default)s]")
    parser.add_argument("--vae-steps", type=WholeNumber(1), default=plan.vae_steps, help="[%(default)s]")
    parser.add_argument("--decoder-steps", type=WholeNumber(1), default=plan.decoder_steps, help="[%(default)s]")
    parser.add_argument("--unet-steps", type=WholeNumber(1), default=plan.unet_steps, help="[%(default)s]")
    parser.add_argument("--threads", type=WholeNumber(1), default=2, help="CPU threads of torch [%(default)s]")
    return parser


def _report(started: float, what: str) -> None:
    say(f"[{time.monotonic() - started:.0f} s] {what}")


if __name__ == "__main__":
    sys.exit(main())
