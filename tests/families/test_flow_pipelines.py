"""Flow models against the pipelines that people sample with: the same latents, whatever is in a batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from flow_models import KINDS, load_flow_model
from models import randn
from torch import Tensor

from leco_plugin.families.flow.denoiser import FlowDenoiser

HEIGHT, WIDTH, STEPS = 64, 96, 5
POSITIVE, NEGATIVE = "a red circle", ""
EMBEDDING = 2.5
TRUE_CFG = ("flux", "schnell", "qwen_image")
"""Their pipelines call classifier-free guidance true_cfg_scale."""
SHIFTED_SCALE = ("z_image", "krea2")
"""Their pipelines' guidance g means a scale of g + 1."""


Folder = Callable[[str], Path]


def states_of_pipeline(kind: str, folder: Path, noise: Tensor, scale: float) -> list[Tensor]:
    """The latents after each step of the pipeline itself, in its own layout."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    states: list[Tensor] = []

    def keep(_: Any, step: int, time: Any, given: dict[str, Any]) -> dict[str, Any]:
        states.append(given["latents"].clone())
        return given

    options: dict[str, Any] = {"guidance_scale": scale - 1 if kind in SHIFTED_SCALE else scale}
    if kind in TRUE_CFG:
        options = {"true_cfg_scale": scale, "guidance_scale": EMBEDDING if kind != "qwen_image" else None}
    if kind == "flux2":
        options = {"guidance_scale": EMBEDDING}
    elif kind not in ("flux2_klein",):
        options |= {"negative_prompt": NEGATIVE}
    if kind == "schnell":
        options |= {"max_sequence_length": 256}
    known = inspect.signature(pipe.__call__).parameters
    if scale != 1 and not options.keys() <= known.keys():
        pytest.skip("this version's pipeline has no classifier-free guidance")
    options = {name: value for name, value in options.items() if name in known}
    pipe(
        prompt=POSITIVE, height=HEIGHT, width=WIDTH, num_inference_steps=STEPS, latents=noise, output_type="latent",
        callback_on_step_end=keep, **options,
    )  # fmt: skip
    return states


@torch.no_grad()
def walk(model: FlowDenoiser, noise: Tensor, scale: float) -> list[Tensor]:
    """Our own walk."""
    table = model.encode([POSITIVE, NEGATIVE])
    sampler, latents, states = model.sampler("any", STEPS, tuple(noise.shape[1:])), noise, []
    for step in range(STEPS):
        time = sampler.timesteps[step].expand(1)
        conditional = model.predict(latents, time, table.rows([0]), torch.zeros(1, 6))
        velocity = conditional
        if scale != 1:
            unconditional = model.predict(latents, time, table.rows([1]), torch.zeros(1, 6))
            velocity = model.guide(conditional, unconditional, scale)
        latents = sampler.step(velocity, step, latents, torch.Generator())
        states.append(latents)
    return states


@pytest.mark.parametrize(("kind", "scale"), [(kind, scale) for kind in KINDS for scale in (1.0, 3.0)])
def test_a_walk_is_the_pipelines_own(kind: str, scale: float, flow_folder: Folder) -> None:
    """Step by step, with guidance and without."""
    if kind == "flux2" and scale != 1:
        pytest.skip("its pipeline has no classifier-free guidance")
    embedding = EMBEDDING if kind in ("flux", "flux2") else None
    model = load_flow_model(flow_folder(kind), guidance_embedding=embedding)
    noise = randn(1, *model.latent_shape(HEIGHT, WIDTH), seed=3)
    layout = model._layout
    packed = kind not in ("flux2", "flux2_klein") and layout.channels > 1
    theirs = states_of_pipeline(kind, flow_folder(kind), layout.to(noise) if packed else noise, scale)
    ours = walk(model, noise, scale)
    assert len(theirs) == STEPS
    for one, other in zip(ours, theirs, strict=True):
        given = other if other.dim() == 4 else layout.back(other, *noise.shape[2:])
        torch.testing.assert_close(one, given, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_see_the_others_of_its_batch(kind: str, flow_folder: Folder) -> None:
    """Prompts of other lengths, and other times, beside it change nothing; its own prompt does."""
    model = load_flow_model(flow_folder(kind))
    table = model.encode([POSITIVE, NEGATIVE])
    noise, times = randn(2, *model.latent_shape(HEIGHT, WIDTH)), torch.tensor([800.0, 300.0])
    sizes = torch.zeros(2, 6)
    with torch.no_grad():
        both = model.predict(noise, times, table.rows([0, 1]), sizes)
        for row in (0, 1):
            alone = model.predict(noise[row : row + 1], times[row : row + 1], table.rows([row]), sizes[:1])
            torch.testing.assert_close(both[row : row + 1], alone, rtol=0, atol=1e-5)
        other = model.predict(noise, times, table.rows([1, 0]), sizes)
    assert (both - other).abs().amax(dim=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_the_pipelines_own(kind: str, flow_folder: Folder) -> None:
    """Latents of the last step, through the VAE as the pipeline scales them."""
    model = load_flow_model(flow_folder(kind))
    latents = randn(1, *model.latent_shape(HEIGHT, WIDTH))
    pipe = diffusers.DiffusionPipeline.from_pretrained(flow_folder(kind))
    pipe.set_progress_bar_config(disable=True)
    packed = kind not in ("flux2", "flux2_klein") and model._layout.channels > 1
    options = {"guidance_scale": 1.0 if kind not in SHIFTED_SCALE else 0.0}
    if kind == "qwen_image":
        options = {"true_cfg_scale": 1.0}
    states: list[Tensor] = []

    def keep(_: Any, step: int, time: Any, given: dict[str, Any]) -> dict[str, Any]:
        states.append(given["latents"])
        return given

    given = model._layout.to(latents) if packed else latents
    drawn = pipe(
        prompt=POSITIVE, height=HEIGHT, width=WIDTH, num_inference_steps=2, latents=given, output_type="pt",
        callback_on_step_end=keep, **options,
    )  # fmt: skip
    last = states[-1] if states[-1].dim() == 4 else model._layout.back(states[-1], *latents.shape[2:])
    ours = (model.decode(last) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(ours, drawn.images, rtol=0, atol=1e-5)
