"""LoRA through PEFT, with a multiplier per row of a batch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from leco_plugin.network.differences import Parts
from leco_plugin.network.dropout import Dropout
from leco_plugin.network.flow_files import family_of, flow_tensors
from leco_plugin.network.layers import Plan, Size, file_names, plan_layers, sizes_text, transformer_layers
from leco_plugin.network.lean import LeanLora
from leco_plugin.network.lora_file import kohya_tensors, write_lora
from leco_plugin.network.start import Start

ADAPTER = "leco"
__all__ = ["ADAPTER", "PeftLora", "transformer_layers"]


class PeftLora:
    """LoRA on layers of a UNet; its weights are float32 whatever the base model is, unless ``dtype`` says otherwise.

    ``plan`` says which layers and at which ranks; without it they are the layers of the transformer blocks at
    ``rank``. ``rank`` and ``alpha`` are also what the file's metadata tells.
    """

    takes_rows = True

    def __init__(
        self,
        module: nn.Module,
        *,
        rank: int,
        alpha: float,
        seed: int,
        plan: Plan | None = None,
        dropout: Dropout | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._module, self._size = module, Size(rank, alpha)
        self._plan = plan or plan_layers(module, self._size)
        self._names = file_names(module, self._plan)
        config = partial(LoraConfig, lora_alpha=alpha)
        self._layers: dict[str, Any] = inject(module, LoraLayer, config, self._plan, self._size, seed)
        self._parameters = self._prepare_parameters(dtype)
        scales = {name: own.scale for name, own in self._plan.items()}
        self._lean = LeanLora(module, self._layers, ADAPTER, scales, dropout or Dropout())
        self.notes: tuple[str, ...] = ()
        """What the user has to know of it."""

    def _prepare_parameters(self, dtype: torch.dtype) -> list[nn.Parameter]:
        parameters = []
        for layer in self._layers.values():
            for part in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
                part.to(dtype).requires_grad_(True)
                parameters += list(part.parameters())
        return parameters

    @property
    def sizes(self) -> str:
        """Its ranks and alphas in words."""
        return sizes_text(self._plan)

    def parameters(self) -> list[nn.Parameter]:
        """All LoRA weights, layer by layer, down before up."""
        return self._parameters

    def multiplier(self, value: float | Sequence[float]) -> AbstractContextManager[None]:
        """Block in which the LoRA has this strength, for the whole batch or per row; restores what it found."""
        return self._lean.at(value)

    def weights(self) -> dict[str, Parts]:
        """Down (rank, in, ...) and up (out, rank, ...) weights and alpha of every layer, by its name in the model."""
        return {
            name: {
                "lora_down.weight": layer.lora_A[ADAPTER].weight.data,
                "lora_up.weight": layer.lora_B[ADAPTER].weight.data,
                # always written: without it, some loaders scale by 1 instead of alpha / rank
                "alpha": torch.tensor(self._plan[name].alpha),
            }
            for name, layer in self._layers.items()
        }

    def load(self, start: Start) -> None:
        """Take over the weights of a file that were checked to fit."""
        for name, layer in self._layers.items():
            for part, held in (("lora_down.weight", layer.lora_A), ("lora_up.weight", layer.lora_B)):
                weight = held[ADAPTER].weight.data
                # the same layer is a linear in one model and a 1x1 convolution in another
                weight.copy_(start.layers[name][part].reshape(weight.shape))
        self.notes = start.notes

    def save(self, path: Path, dtype: str, metadata: Mapping[str, str]) -> None:
        """Write the LoRA as sd-scripts does, for flow models as diffusers does; atomically.

        What describes the network is added to ``metadata``.
        """
        layers = {self._names[name]: weights for name, weights in self.weights().items()}
        tensors = flow_tensors(layers) if family_of(self._module) else kohya_tensors(layers)
        write_lora(path, tensors, dtype, {**metadata, **describe("networks.lora", self._plan, self._size, {})})


Kind = TypeVar("Kind", bound=nn.Module)


def inject(
    module: nn.Module, kind: type[Kind], config: Callable[..., PeftConfig], plan: Plan, size: Size, seed: int
) -> dict[str, Kind]:
    """Put PEFT's layers of a ``kind`` on those of ``plan``, and give them by their names; ``seed`` fixes weights."""
    # PEFT reads the names in its patterns as regular expressions
    exactly = {name: re.escape(name) for name in plan}
    made = config(
        r=size.rank,
        target_modules=list(plan),
        rank_pattern={exactly[name]: own.rank for name, own in plan.items() if own.rank != size.rank},
        alpha_pattern={exactly[name]: own.alpha for name, own in plan.items() if own.alpha != size.alpha},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(made, module, adapter_name=ADAPTER)
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, kind)}


def describe(module: str, plan: Plan, linear: Size, arguments: Mapping[str, str]) -> dict[str, str]:
    """What a file's metadata says of a network, with the size of convolutions that have one of their own."""
    others = {size for size in plan.values() if size != linear}
    conv = others.pop() if len(others) == 1 else None
    sizes = {"conv_dim": str(conv.rank), "conv_alpha": f"{conv.alpha:g}"} if conv else {}
    said = {**arguments, **sizes}
    return {
        "ss_network_module": module,
        "ss_network_dim": str(linear.rank),
        "ss_network_alpha": f"{linear.alpha:g}",
        **({"ss_network_args": json.dumps(said)} if said else {}),
    }
