"""Make a tiny model from nothing: ``python -m leco_plugin.tiny.train --output DIR``, with ``--flow`` the flow model.

The flow model takes the VAE of the built-in Stable Diffusion, and learns the rest. Stages leave their results in
DIR/stages, so a run that was cut goes on where it stopped; DIR/model is the model.
The same seed gives the same model where machine, library versions and the number of threads are the same.
"""

import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, Qwen3Model

from leco_plugin.errors import TrainingError
from leco_plugin.tiny import FLOW_FOLDER, MODEL_FOLDER
from leco_plugin.tiny.architecture import SCALING_FACTOR, fresh, new_transformer, new_unet, new_vae
from leco_plugin.tiny.arguments import Number, Parser, say
from leco_plugin.tiny.export import export
from leco_plugin.tiny.fit import Dice, Stage
from leco_plugin.tiny.pictures import Attributes
from leco_plugin.tiny.stages import draw_set, encode, settle_latents, train_decoder, train_flow, train_unet, train_vae

STEPS = {"vae": 2500, "decoder": 2000, "unet": 9000, "flow": 17500}
"""Of every stage; what a run is not told. The same numbers, seed and pictures make the same model."""
PICTURES = {False: 16000, True: 12000}
"""The same, with and without --flow."""


def make(plan: Namespace, pixels: Tensor, shown: list[Attributes]) -> None:
    """Make the Stable Diffusion from ``pixels`` (N, 64, 64, 3) that show this."""
    stages, seed = plan.output / "stages", plan.seed
    tokenizer = CLIPTokenizer.from_pretrained(MODEL_FOLDER / "tokenizer")
    vae, unet, text_encoder = new_vae(), new_unet(), fresh(CLIPTextModel, MODEL_FOLDER, "text_encoder")
    vae.to(memory_format=torch.channels_last)
    say("VAE")
    ground = f"{plan.pictures} pictures"
    train_vae(vae, Stage("vae", seed, plan.vae_steps, 16, 1.5e-3, ground), pixels, stages)
    say("decoder")
    ground += f", {plan.vae_steps} VAE steps"
    train_decoder(vae, Stage("decoder", seed, plan.decoder_steps, 16, 1e-3, ground, average=0.99), pixels, stages)
    settle_latents(vae, pixels)
    latents = encode(vae, pixels)
    say("UNet and text encoder")
    ground += f", {plan.decoder_steps} decoder steps"
    stage = Stage("unet", seed, plan.unet_steps, 64, 1e-3, ground, average=0.998, weight_decay=1e-3)
    train_unet(unet, text_encoder, stage, latents, shown, tokenizer, stages)
    parts = {"vae": vae, "unet": unet, "text_encoder": text_encoder}
    export(parts, MODEL_FOLDER, plan.output / "model")


def make_flow(plan: Namespace, pixels: Tensor, shown: list[Attributes]) -> None:
    """Make the flow model from ``pixels`` (N, 64, 64, 3) that show this."""
    # this import is slow and talks of torchvision: a mistake in the arguments is told without it
    from diffusers import ZImagePipeline

    mean, std = encode(AutoencoderKL.from_pretrained(MODEL_FOLDER, subfolder="vae").eval(), pixels)
    # as Flux's does, its config takes their mean off
    shift = AutoencoderKL.load_config(FLOW_FOLDER, subfolder="vae")["shift_factor"]
    parts = {"text_encoder": fresh(Qwen3Model, FLOW_FOLDER, "text_encoder"), "transformer": new_transformer()}
    pipeline = ZImagePipeline.from_pretrained(FLOW_FOLDER, vae=None, **parts)
    say("transformer and text encoder")
    ground = f"{plan.pictures} pictures"
    stage = Stage("flow", plan.seed, plan.flow_steps, 32, 1.5e-3, ground, average=0.997, weight_decay=1e-3)
    latents = ((mean - shift) * SCALING_FACTOR, std * SCALING_FACTOR)
    train_flow(pipeline, stage, latents, shown, plan.output / "stages")
    export(parts, FLOW_FOLDER, plan.output / "model")
    for file in (MODEL_FOLDER / "vae").glob("*.safetensors"):
        shutil.copy(file, plan.output / "model" / "vae")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 2 where the arguments or earlier stages do not fit."""
    plan = _parser().parse_args(arguments)
    torch.set_num_threads(plan.threads)
    for stage, steps in STEPS.items():
        name = f"{stage}_steps"
        if getattr(plan, name) is None:
            setattr(plan, name, steps)
        elif plan.flow is not (stage == "flow"):
            sys.stderr.write(f"--{stage}-steps means nothing {'with' if plan.flow else 'without'} --flow\n")
            return 2
    plan.pictures = plan.pictures or PICTURES[plan.flow]
    started = time.monotonic()
    say(f"drawing {plan.pictures} pictures")
    try:
        pixels, shown = draw_set(plan.pictures, Dice.of(plan.seed, "pictures"))
        # modules draw their first weights from torch's global generator; fork it so that ours stays our own
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            (make_flow if plan.flow else make)(plan, pixels, shown)
    except (TrainingError, OSError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    say(f"[{time.monotonic() - started:.0f} s] the model is in {plan.output / 'model'}")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m leco_plugin.tiny.train", description="Make a tiny model from nothing.")
    parser.add_argument("--flow", action="store_true", help="make the flow model, on the VAE that is there")
    parser.add_argument(
        "--output", type=Path, default=Path("tiny-run"), help="folder for stages and model [%(default)s]"
    )
    parser.add_argument("--seed", type=Number(int, 0), default=0, help="[%(default)s]")
    parser.add_argument("--pictures", type=Number(int, 1), help=f"[{PICTURES[False]}, flow {PICTURES[True]}]")
    for stage, steps in STEPS.items():
        parser.add_argument(f"--{stage}-steps", type=Number(int, 1), help=f"[{steps}]")
    parser.add_argument("--threads", type=Number(int, 1), default=2, help="CPU threads of torch [%(default)s]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
