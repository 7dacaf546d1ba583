"""The noise levels that the host samples a flow model with: recorded while it draws a picture of nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor

from leco_plugin.hosts.denoiser import shadowed

_TIMES = ("timestep", "timesteps", "t", "time")
"""What transformers call the noise level that they are shown."""


class Nothing:
    """What the host hands on about a picture or a batch: whatever is looked for in it is not there."""

    def __init__(self, **known: Any) -> None:
        vars(self).update(known)

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Recorded(BaseException):
    """The way out of the host's sampling once every noise level is known; diffusers would log an Exception."""


def recorded(sd: Any, steps: int, pixels: tuple[int, int], embeds: Any) -> Tensor:
    """(N + 1,) shares of noise, from 1 to 0, of ``steps`` steps for a picture of ``pixels`` (height, width).

    Has the host draw with a transformer that computes once, and says the same at every further step. Raises whatever
    the host's sampling does, and ValueError for times that are no walk.
    """
    seen: list[float] = []
    asked = Nothing(
        height=pixels[0], width=pixels[1], num_inference_steps=steps, guidance_scale=1.0, guidance_rescale=0.0,
        num_frames=1, seed=0, prompt="", negative_prompt="", extra_kwargs={},
    )  # fmt: skip
    generator = torch.Generator(sd.device_torch).manual_seed(0)
    encoders = sd.text_encoder if isinstance(sd.text_encoder, list) else [sd.text_encoder]
    with ExitStack() as stack:
        # the host's pipelines put all their parts on the card, where there may be no room for what is not needed here
        for part in (*encoders, sd.vae):
            stack.enter_context(shadowed(part, "to", _stays(part)))
        pipeline = sd.get_generation_pipeline()
        # what is trained may be a wrapper around what draws
        model = getattr(pipeline, "transformer", None) or sd.unet
        stack.enter_context(shadowed(model, "forward", _recording(model.forward, seen, steps)))
        with suppress(_Recorded), torch.no_grad():
            sd.generate_single_image(pipeline, asked, embeds, embeds, generator, {})
    return _sigmas(seen, steps)


def _stays(part: Any) -> Callable[..., Any]:
    return lambda *_, **__: part


def _recording(own: Callable[..., Any], seen: list[float], steps: int) -> Callable[..., Any]:
    said: list[Any] = []

    def forward(*arguments: Any, **options: Any) -> Any:
        time = _time(arguments, options)
        # guidance asks twice at a step
        if time not in seen:
            seen.append(time)
        if not said:
            said.append(own(*arguments, **options))
        if len(seen) == steps:
            raise _Recorded
        return said[0]

    return forward


def _time(arguments: Sequence[Any], options: Mapping[str, Any]) -> float:
    named = [options[name] for name in _TIMES if options.get(name) is not None]
    small = [
        value for value in arguments if isinstance(value, Tensor) and value.ndim <= 1 and value.is_floating_point()
    ]
    found = [*named, *small]
    if not found:
        raise ValueError("its transformer is shown no time")
    return float(torch.as_tensor(found[0]).flatten()[0])


def _sigmas(times: Sequence[float], steps: int) -> Tensor:
    """Times on whatever scale and in whatever direction, as shares of noise that fall from 1 to 0."""
    found = torch.tensor(times or [0.0])
    if found.max() > 1.5:
        found = found / 1000
    if len(found) > 1 and found[0] < found[-1]:
        found = 1 - found
    falling = bool((found.diff() < 0).all())
    if len(found) != steps or not falling or not math.isclose(float(found[0]), 1.0, abs_tol=0.01):
        raise ValueError(f"its times are no walk from noise to a picture: {times[:3]} ...")
    return torch.cat([found, torch.zeros(1)])
