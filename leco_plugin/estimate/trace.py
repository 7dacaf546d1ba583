"""What one call of a model takes: the real classes run without weights, and everything that they make is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Network
from leco_plugin.estimate.cuda import LikeCuda
from leco_plugin.estimate.live import Live
from leco_plugin.estimate.steps import Rows, Wide
from leco_plugin.families.meta import MetaModel, meta_model
from leco_plugin.network.create import create_network

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Of a number."""
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


@dataclass(frozen=True)
class Call:
    """Bytes and operations of one call, beside the weights."""

    most: int
    """Bytes at one time."""
    kept: int
    """Bytes that wait for the backward pass; 0 without one."""
    flops: int


class Traced:
    """The model and network of a job without their numbers, and what their calls take."""

    def __init__(self, job: JobConfig) -> None:
        self._job, self._half = job, _HALF[job.train.dtype]
        self._build()

    def _build(self) -> None:
        job = self._job
        self.model: MetaModel = meta_model(job.model, job.train.dtype, job.memory)
        self.network: Network = create_network(job.network, self.model.denoiser.module, seed=0)
        self._recomputes = False
        for parameter in self.network.parameters():
            # part of the network's own memory, not of a call's
            parameter.grad = torch.empty_like(parameter)

    def _recompute(self, again: bool) -> None:
        """Have the backward pass compute activations again, or keep them."""
        if self._recomputes and not again:
            self._build()
        if again and not self._recomputes:
            self.model.checkpoint()
            self._recomputes = True

    @property
    def trained(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def call(self, kind: Rows, wide: Wide, *, again: bool = False) -> Call:
        """One call, with its backward pass where ``kind`` has a gradient.

        For that pass activations are computed ``again``, or kept.
        """
        if kind.gradient:
            self._recompute(again)
        found = self._call(kind, wide.counted, wide.strength)
        return Call(*(int(number * wide.times) for number in (found.most, found.kept, found.flops)))

    def _call(self, kind: Rows, rows: int, strength: float | Sequence[float]) -> Call:
        module, gradient = self.model.denoiser.module, kind.gradient
        latents = torch.empty(rows, *kind.shape, device="meta")
        timesteps, sizes = torch.empty(rows, device="meta"), torch.empty(rows, 6, device="meta")
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        live = Live([*module.parameters(), *module.buffers(), *gradients, latents, timesteps, sizes])
        card = LikeCuda(self._half)
        with live, torch.set_grad_enabled(gradient), self.network.multiplier(strength):
            with card:
                text = self.model.text.rows([0] * rows)
                predicted = self.model.denoiser.predict(latents, timesteps, text, sizes)
            kept = live.now if gradient else 0
            if gradient:
                card.backward(predicted.float().square().mean())
            return Call(live.most, kept, live.flops)
