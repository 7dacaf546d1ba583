"""LoRA through PEFT, with a multiplier per row of a batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from leco_plugin.network.dropout import Dropout
from leco_plugin.network.flow_files import family_of, flow_tensors
from leco_plugin.network.layers import Plan, Size, file_names, plan_layers, sizes_text, transformer_layers
from leco_plugin.network.lean import LeanLora
from leco_plugin.network.lora_file import LoraWeights, narrowed, write_lora, write_tensors
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
        self._layers = _inject(module, self._plan, self._size, seed)
        self._parameters = self._prepare_parameters(dtype)
        self._lean = LeanLora(module, self._layers, ADAPTER)
        scales = {name: own.scale for name, own in self._plan.items()}
        self._lean.attach(self._layers, ADAPTER, scales, dropout or Dropout())
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

    def weights(self) -> dict[str, LoraWeights]:
        """Down and up weights and alpha of every layer, by the layer's name in the model."""
        return {
            name: LoraWeights(
                layer.lora_A[ADAPTER].weight.data, layer.lora_B[ADAPTER].weight.data, self._plan[name].alpha
            )
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
        described = {**metadata, **self._description()}
        if family_of(self._module):
            write_tensors(path, narrowed(flow_tensors(layers), dtype), described)
        else:
            write_lora(path, layers, dtype, described)

    def _description(self) -> dict[str, str]:
        arguments = conv_arguments(self._plan, self._size)
        return {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(self._size.rank),
            "ss_network_alpha": f"{self._size.alpha:g}",
            **({"ss_network_args": json.dumps(arguments)} if arguments else {}),
        }


def _inject(module: nn.Module, plan: Plan, size: Size, seed: int) -> dict[str, LoraLayer]:
    config = LoraConfig(
        r=size.rank,
        lora_alpha=size.alpha,
        target_modules=list(plan),
        rank_pattern={exactly(name): own.rank for name, own in plan.items() if own.rank != size.rank},
        alpha_pattern={exactly(name): own.alpha for name, own in plan.items() if own.alpha != size.alpha},
        init_lora_weights=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


def exactly(name: str) -> str:
    """PEFT reads the names in its patterns as regular expressions."""
    return name.replace(".", r"\.")


def conv_arguments(plan: Plan, linear: Size) -> dict[str, str]:
    """What a file's metadata says of convolutions that have a size of their own."""
    others = {size for name, size in plan.items() if size != linear}
    if len(others) != 1:
        return {}
    size = others.pop()
    return {"conv_dim": str(size.rank), "conv_alpha": f"{size.alpha:g}"}
