"""diffusers' schedulers as the samplers of walks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import diffusers
import numpy as np
import torch
from torch import Generator, Tensor

from leco_plugin.core.state import StateTree
from leco_plugin.errors import ModelError

_CLASSES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
}


class DiffusersSampler:
    """One walk's scheduler; its tables stay on the CPU, where indexing them waits for no device."""

    def __init__(self, scheduler: Any, device: torch.device, timesteps: Tensor | None = None) -> None:
        self._scheduler = scheduler
        self._device = device
        self.timesteps = scheduler.timesteps.to(device) if timesteps is None else timesteps

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the latents at the start."""
        return float(self._scheduler.init_noise_sigma)

    def fresh(self) -> DiffusersSampler:
        """The same sampler without history."""
        scheduler = copy.deepcopy(self._scheduler)
        # forgets the steps that this one may have taken
        scheduler.set_timesteps(len(self.timesteps))
        return DiffusersSampler(scheduler, self._device, self.timesteps)

    def model_input(self, latents: Tensor, index: int) -> Tensor:
        """Latents as the scheduler scales them for the model, (B, C, h, w)."""
        return cast(Tensor, self._scheduler.scale_model_input(latents, self._scheduler.timesteps[index]))

    def step(self, prediction: Tensor, index: int, latents: Tensor, generator: Generator) -> Tensor:
        """Latents (B, C, h, w) after one more step."""
        timestep = self._scheduler.timesteps[index]
        stepped = self._scheduler.step(prediction, timestep, latents, return_dict=False, generator=generator)
        return cast(Tensor, stepped[0])

    def state(self) -> StateTree:
        """What the steps taken have changed in the scheduler; the rest follows from how it is made."""
        unused = vars(self.fresh()._scheduler)
        used = vars(self._scheduler)
        return {name: value for name, value in used.items() if name not in unused or not _same(value, unused[name])}

    def restore(self, state: StateTree) -> None:
        """Go on as the sampler that gave ``state``; it was made as this one was."""
        changed = cast(Mapping[str, StateTree], state)
        vars(self._scheduler).update({name: _moved(value, self._device) for name, value in changed.items()})


class FlowSampler:
    """Euler's steps along a flow, from noise at sigma 1 to the picture at 0; has no history."""

    init_noise_sigma = 1.0

    def __init__(self, sigmas: Tensor, device: torch.device) -> None:
        """Along ``sigmas`` (N + 1,), the share of noise, from 1 to 0; kept on the CPU."""
        self._sigmas = sigmas.cpu()
        self.timesteps = 1000 * sigmas[:-1].to(device)

    def fresh(self) -> FlowSampler:
        """Itself."""
        return self

    def model_input(self, latents: Tensor, index: int) -> Tensor:
        """Latents as they are, (B, C, h, w)."""
        return latents

    def step(self, prediction: Tensor, index: int, latents: Tensor, generator: Generator) -> Tensor:
        """Latents (B, C, h, w) after one more step towards the picture; a prediction is noise - picture."""
        return latents + float(self._sigmas[index + 1] - self._sigmas[index]) * prediction

    def state(self) -> StateTree:
        """Nothing."""
        return {}

    def restore(self, state: StateTree) -> None:
        """Nothing to do."""


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool((one.cpu() == other.cpu()).all())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and not isinstance(one, Tensor) and bool(one == other)


def _moved(state: StateTree, device: torch.device) -> StateTree:
    """Tensors of a history go where the predictions are."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, list):
        return [_moved(value, device) for value in state]
    return state


def make_sampler(name: str, config: Mapping[str, object], steps: int, device: torch.device) -> DiffusersSampler:
    """The sampler ``name`` with the noise schedule of the model's scheduler ``config``.

    Raises ModelError for a name that is not in the table, or a number of steps the schedule cannot be cut into.
    """
    if name not in _CLASSES:
        raise ModelError(f"no sampler is called {name!r}", fix=f"choose one of {', '.join(_CLASSES)}")
    class_name, overrides = _CLASSES[name]
    scheduler = getattr(diffusers, class_name).from_config(dict(config), **overrides)
    if not _cuts(scheduler, steps):
        raise ModelError(f"sampler {name!r} cannot take {steps} different steps", fix="use fewer steps")
    return DiffusersSampler(scheduler, device)


def shifted_sigmas(config: Mapping[str, Any], steps: int, mu: float | None = None) -> Tensor:
    """(N + 1,) shares of noise of a flow scheduler's ``config``; ``mu`` is its shift where that depends on the size.

    1..1/N before the shift, as pipelines do, which leaves out the useless last steps next to the picture.
    """
    # what a config says of itself goes: it lists values as defaults that another class would then not take from it
    public = {name: value for name, value in config.items() if not name.startswith("_")}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(public)
    return set_sigmas(scheduler, steps, {"mu": mu} if config.get("use_dynamic_shifting") else {})


def set_sigmas(scheduler: Any, steps: int, options: Mapping[str, Any]) -> Tensor:
    """(N + 1,) shares of noise of ``scheduler`` for ``steps`` steps, set with these ``options``.

    Where they leave them to Euler's scheduler, 1..1/N before the shift: its own go on to stops beside the picture.
    """
    if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        # an array: older versions of diffusers take no list
        scheduler.set_timesteps(**{"sigmas": np.linspace(1.0, 1 / steps, steps), **options})
    else:
        scheduler.set_timesteps(steps, **options)
    return cast(Tensor, scheduler.sigmas).float()


def size_shift(config: Mapping[str, Any], tokens: int, steps: int = 0) -> float:
    """The line that a scheduler's config draws through two sizes. Source: ``calculate_shift`` in diffusers."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (most - least) / (high - low)
    return float(tokens * slope + (least - slope * low))


def flux2_shift(config: Mapping[str, Any], tokens: int, steps: int) -> float:
    """FLUX.2's own formula, which depends on the steps, and not on the ``config``."""
    pipeline: Any = import_module("diffusers.pipelines.flux2.pipeline_flux2")
    return float(pipeline.compute_empirical_mu(image_seq_len=tokens, num_steps=steps))


def _cuts(scheduler: Any, steps: int) -> bool:
    """Set ``steps`` timesteps; whether they are all different, and none beyond those of the training."""
    trained = len(scheduler.alphas_cumprod)
    if steps > trained:
        return False
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    return len(timesteps) == len(set(timesteps)) == steps and max(timesteps) < trained


def cumulative_alphas(config: Mapping[str, object]) -> Tensor:
    """(T,) float32: how much of the signal's variance is left at each training timestep."""
    scheduler = diffusers.DDPMScheduler.from_config(dict(config))
    return cast(Tensor, scheduler.alphas_cumprod).float()
