"""What one call of a model takes: the real classes run without weights, and everything that they make is counted."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from leco_plugin.config.schema import JobConfig
from leco_plugin.estimate.machine import LikeCuda, Live
from leco_plugin.estimate.steps import Call
from leco_plugin.families.meta import meta_model
from leco_plugin.network.create import create_network

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


@dataclass(frozen=True)
class Cost:
    """Of a call, beside the weights; and of its backward pass, where it has one."""

    most: int
    """Bytes at one time."""
    kept: int
    """Bytes that wait for the backward pass."""
    flops: int


class Traced:
    """The model and network of a job without their numbers, and what their calls take."""

    def __init__(self, job: JobConfig) -> None:
        self._job = job
        self._build()

    def _build(self) -> None:
        self.model = meta_model(self._job.model, self._job.train.dtype, self._job.memory)
        self.network = create_network(self._job.network, self.model.denoiser.module, seed=0)
        self._recomputes = False
        for parameter in self.network.parameters():
            # part of the network's own memory, not of a call's
            parameter.grad = torch.empty_like(parameter)
        self.trained = sum(parameter.numel() for parameter in self.network.parameters())

    def cost(self, call: Call, *, again: bool = False) -> Cost:
        """Of ``call``; for a backward pass activations are computed ``again``, or kept."""
        if call.gradient and self._recomputes and not again:
            self._build()
        if call.gradient and again and not self._recomputes:
            self.model.checkpoint()
            self._recomputes = True
        rows, module = call.rows, self.model.denoiser.module
        given = [torch.empty(rows, *shape, device="meta") for shape in (call.shape, (), (6,))]
        grads = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        live = Live([*module.parameters(), *module.buffers(), *grads, *given])
        card = LikeCuda(_HALF[self._job.train.dtype])
        with live, torch.set_grad_enabled(call.gradient), self.network.multiplier(call.strength):
            with card:
                latents, timesteps, sizes = given
                text = self.model.text.rows([0] * rows)
                predicted = self.model.denoiser.predict(latents, timesteps, text, sizes)
            kept = live.now
            if call.gradient:
                card.backward(predicted.float().square().mean())
            return Cost(live.most, kept, live.flops)
