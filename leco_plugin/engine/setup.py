"""What a run needs before its first step, in any host: a seed, a device, the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from leco_plugin.config.families import FLOW_FAMILIES
from leco_plugin.config.flow_rules import fitted
from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Denoiser, Hooks
from leco_plugin.errors import ConfigError, ModelError, reason


def load_model(job: JobConfig, hooks: Hooks) -> Denoiser:
    """The model that a job names; ModelError where no plugin can load it."""
    denoiser = hooks.leco_load_model(job=job, device=choose_device(job.device))
    if denoiser is None:
        raise ModelError(f"no plugin can load the model {job.model.name_or_path!r}")
    return denoiser


def fit(job: JobConfig, denoiser: Denoiser) -> JobConfig:
    """``job`` with the model's own defaults where it leaves them open."""
    return fitted(job, denoiser.distilled) if denoiser.family in FLOW_FAMILIES else job


def choose_device(name: str) -> torch.device:
    """``auto`` is cuda, else mps, else the CPU; ConfigError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        # asked for a number, since some devices take tensors and have none
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ConfigError(
            f"device {name!r} cannot be used here: {reason(error)}", fix="set device: auto, or cpu"
        ) from None
    return device


@contextmanager
def own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Block in which torch's global generators, which dropout draws from, follow ``seed``; the old ones come back."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def draw_seed() -> int:
    """A seed for a run that was given none; it is shown and recorded."""
    return torch.seed() % 2**32
