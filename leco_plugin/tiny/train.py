"""Make a tiny model from nothing: ``python -m leco_plugin.tiny.train --output DIR``, with ``--flow`` the flow model.

The flow model takes the VAE of the built-in Stable Diffusion, and learns the rest. Stages leave their results in
DIR/stages, so a run that was cut goes on where it stopped; DIR/model is the model.
The same seed gives the same model where machine, library versions and the number of threads are the same.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from leco_plugin.errors import TrainingError
from leco_plugin.tiny import MODEL_FOLDER, flow_architecture
from leco_plugin.tiny.architecture import (
    SCALING_FACTOR,
    load_tokenizer,
    new_text_encoder,
    new_unet,
    new_vae,
    write_tokenizer_files,
)
from leco_plugin.tiny.arguments import Parser, WholeNumber, say
from leco_plugin.tiny.export import export, export_flow
from leco_plugin.tiny.fit import Dice, Stage
from leco_plugin.tiny.stages import draw_set, encode, settle_latents, train_decoder, train_flow, train_unet, train_vae


@dataclass(frozen=True)
class Plan:
    """Everything that decides the result: the same plan makes the same model."""

    output: Path
    seed: int = 0
    pictures: int = 16000
    vae_steps: int = 2500
    decoder_steps: int = 2000
    unet_steps: int = 9000


@dataclass(frozen=True)
class FlowPlan:
    """The same for the flow model."""

    output: Path
    seed: int = 0
    pictures: int = 12000
    flow_steps: int = 17500


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


def make_flow(plan: FlowPlan) -> Path:
    """Make the flow model and return its folder, ``plan.output``/model."""
    started = time.monotonic()
    _report(started, f"drawing {plan.pictures} pictures")
    pixels, shown = draw_set(plan.pictures, Dice.of(plan.seed, "pictures"))
    vae = AutoencoderKL.from_pretrained(MODEL_FOLDER, subfolder="vae", torch_dtype=torch.float32).eval()
    mean, std = encode(vae, pixels)
    # as Flux's does, its config takes their mean off
    shift = float(mean.double().mean())
    vae.register_to_config(shift_factor=shift, scaling_factor=SCALING_FACTOR)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        pipeline = flow_architecture.new_pipeline(vae)
    _report(started, "transformer and text encoder")
    ground = f"{plan.pictures} pictures"
    stage = Stage("flow", plan.seed, plan.flow_steps, 32, 1.5e-3, ground, average=0.997, weight_decay=1e-3)
    latents = ((mean - shift) * SCALING_FACTOR, std * SCALING_FACTOR)
    train_flow(pipeline, stage, latents, shown, plan.output / "stages")
    export_flow(pipeline, plan.output / "model")
    _report(started, f"the model is in {plan.output / 'model'}")
    return plan.output / "model"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 2 where the arguments or earlier stages do not fit."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    kind = FlowPlan if options.flow else Plan
    given = {name: value for name, value in vars(options).items() if value is not None}
    known = {field.name for field in fields(kind)}
    strange = sorted(given.keys() - known - {"flow", "threads"})
    if strange:
        flag = strange[0].replace("_", "-")
        sys.stderr.write(f"--{flag} means nothing {'with' if options.flow else 'without'} --flow\n")
        return 2
    plan = kind(**{name: given[name] for name in known & given.keys()})
    try:
        make_flow(plan) if isinstance(plan, FlowPlan) else make(plan)
    except (TrainingError, OSError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m leco_plugin.tiny.train", description="Make a tiny model from nothing.")
    parser.add_argument("--flow", action="store_true", help="make the flow model, on the VAE that is there")
    parser.add_argument(
        "--output", type=Path, default=Path("tiny-run"), help="folder for stages and model [%(default)s]"
    )
    for name, default in {"seed": Plan.seed, "pictures": f"{Plan.pictures}, flow {FlowPlan.pictures}"}.items():
        parser.add_argument(f"--{name}", type=WholeNumber(int(name != "seed")), help=f"[{default}]")
    steps = {"vae": Plan.vae_steps, "decoder": Plan.decoder_steps, "unet": Plan.unet_steps, "flow": FlowPlan.flow_steps}
    for name, default in steps.items():
        parser.add_argument(f"--{name}-steps", type=WholeNumber(1), help=f"[{default}]")
    parser.add_argument("--threads", type=WholeNumber(1), default=2, help="CPU threads of torch [%(default)s]")
    return parser


def _report(started: float, what: str) -> None:
    say(f"[{time.monotonic() - started:.0f} s] {what}")


if __name__ == "__main__":
    sys.exit(main())
