"""The host's LoRA modules behind the Network contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from leco_plugin.errors import NetworkError
from leco_plugin.hosts.network import HostedNetwork


class HostNetwork(HostedNetwork):
    """What the host has attached to its model: LoRA, DoRA, LoHa, LoKr or OFT."""

    takes_rows = False

    def __init__(self, setup: Any, model: Any, config: Any) -> None:
        self._setup, self._model, self._config = setup, model, config

    def parameters(self) -> list[nn.Parameter]:
        """What the host's optimizer trains."""
        return list(self._model.parameters.parameters())

    @contextmanager
    def multiplier(self, value: float | Sequence[float]) -> Iterator[None]:
        """Block in which the LoRA has this strength; at 0 the host takes it off the model.

        Otherwise the alpha of every layer is scaled: that is what the host's forward multiplies by, and what
        checkpointing reads again in the backward pass.
        """
        if not isinstance(value, (int, float)):
            raise NetworkError("OneTrainer's LoRA has one strength for a whole batch")
        if value == 0:
            with self._setup.prior_model(self._model, self._config):
                yield
            return
        with self._scaled(value), self._dropout(torch.is_grad_enabled()):
            yield

    @contextmanager
    def _scaled(self, value: float) -> Iterator[None]:
        alphas = self._alphas() if value != 1 else []
        found = [alpha.clone() for alpha in alphas]
        with torch.no_grad():
            for alpha in alphas:
                alpha.mul_(value)
        try:
            yield
        finally:
            with torch.no_grad():
                for alpha, before in zip(alphas, found, strict=True):
                    alpha.copy_(before)

    @contextmanager
    def _dropout(self, on: bool) -> Iterator[None]:
        """Dropout is for the student's pass: walks are those of the LoRA as it is."""
        switched = [] if on or not self._config.dropout_probability else [m for m in self._modules() if m.training]
        for module in switched:
            module.training = False
        try:
            yield
        finally:
            for module in switched:
                module.training = True

    def _alphas(self) -> list[Tensor]:
        # looked up every time: moving a model between devices replaces its buffers
        return list(
            {id(m): m._buffers["alpha"] for m in self._modules() if m._buffers.get("alpha") is not None}.values()
        )

    def _modules(self) -> list[Any]:
        return [module for adapter in self._model.adapters() for module in adapter.modules()]


def refuse_strengths(config: Any, multipliers: set[float]) -> None:
    """NetworkError where the host's kind of network has only one strength, and pairs ask for others."""
    kind = str(config.peft_type)
    decomposed = {"LORA": config.lora_decompose, "LOKR": config.lokr_weight_decompose}.get(kind, False)
    if multipliers <= {1.0} or not (decomposed or kind == "OFT_2"):
        return
    raise NetworkError(
        "prompts are trained at other strengths than 1, which OneTrainer's OFT and weight-decomposed networks (DoRA) "
        "do not have",
        fix="choose LoRA or LoHa without weight decomposition, or take multiplier out of the prompt file",
    )
