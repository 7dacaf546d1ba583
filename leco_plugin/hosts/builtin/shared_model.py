"""One load of a model for jobs that share it, one after the other in one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Denoiser
from leco_plugin.families.load import check_job
from leco_plugin.hookspecs import hookimpl
from leco_plugin.plugins import Plugins


class SharedModel:
    """A plugin that keeps the model of the last job, as it was loaded, for the next job that loads the same."""

    def __init__(self, manager: Plugins) -> None:
        self._manager = manager
        self._key: object = None
        self._denoiser: Denoiser | None = None
        self._loaded: Mapping[nn.Module, dict[str, Any]] = {}

    @hookimpl
    def leco_load_model(self, job: JobConfig, device: torch.device) -> Denoiser | None:
        """The kept model, or what the other plugins load, which is kept from then on."""
        # what is compiled is compiled with its network
        if job.memory.torch_compile:
            self.forget()
            return None
        key = (job.model, job.memory, job.train.dtype, job.train.gradient_checkpointing, device)
        if self._denoiser is not None and key == self._key:
            check_job(job)
            _restore(self._loaded)
            return self._denoiser
        self.forget()
        load = self._manager.subset_hook_caller("leco_load_model", [self])
        found: Denoiser | None = load(job=job, device=device)
        if found is not None:
            self._key, self._denoiser, self._loaded = key, found, _noted(found.module)
        return found

    def forget(self) -> None:
        """Let go of the model."""
        self._key, self._denoiser, self._loaded = None, None, {}


def _noted(module: nn.Module) -> dict[nn.Module, dict[str, Any]]:
    """What every module in ``module`` is made of: whatever attaches a network changes that."""
    return {one: _copied(vars(one)) for one in module.modules()}


def _restore(noted: Mapping[nn.Module, dict[str, Any]]) -> None:
    """Take off what has been attached since."""
    for module, attributes in noted.items():
        vars(module).clear()
        vars(module).update(_copied(attributes))


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The dicts of parts, weights and hooks as copies, all else, such as a config, as it is."""
    kinds = (dict, OrderedDict)
    return {name: value.copy() if type(value) in kinds else value for name, value in attributes.items()}
