"""LoRA through PEFT, with a multiplier per row of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from leco_plugin.errors import NetworkError
from leco_plugin.network.lora_file import LoraWeights, read_lora, write_lora

ADAPTER = "leco"
_BLOCK = "Transformer2DModel"


def transformer_layers(module: nn.Module) -> list[str]:
    """Names of the attention and feed-forward linears and 1x1 projections inside ``module``'s transformer blocks."""
    names = []
    for block_name, block in module.named_modules():
        if type(block).__name__ != _BLOCK:
            continue
        for name, layer in block.named_modules():
            if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
                names.append(f"{block_name}.{name}")
    return names


class PeftLora:
    """LoRA on the transformer blocks of a UNet; weights are float32 whatever the base model is."""

    takes_rows = True

    def __init__(self, module: nn.Module, *, rank: int, alpha: float, seed: int) -> None:
        targets = transformer_layers(module)
        if not targets:
            raise NetworkError(f"{type(module).__name__} has no transformer block that a LoRA could go on")
        self._rank, self._alpha = rank, alpha
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, module, adapter_name=ADAPTER)
        self._layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
        self._parameters = self._prepare_parameters()
        self._row_scales: dict[tuple[float, ...], dict[int, Tensor]] = {}

    def _prepare_parameters(self) -> list[nn.Parameter]:
        parameters = []
        for layer in self._layers.values():
            for part in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
                part.float().requires_grad_(True)
                parameters += list(part.parameters())
        return parameters

    def parameters(self) -> list[nn.Parameter]:
        """All LoRA weights, layer by layer, down before up."""
        return self._parameters

    @contextmanager
    def multiplier(self, value: float | Sequence[float]) -> Iterator[None]:
        """Block in which the LoRA has this strength, for the whole batch or per row; restores what it found."""
        before = [layer.scaling[ADAPTER] for layer in self._layers.values()]
        scales = self._scales(value)
        for layer in self._layers.values():
            layer.scaling[ADAPTER] = scales if isinstance(scales, float) else scales[_rank_of_input(layer)]
        try:
            yield
        finally:
            for layer, scale in zip(self._layers.values(), before, strict=True):
                layer.scaling[ADAPTER] = scale

    def _scales(self, value: float | Sequence[float]) -> float | dict[int, Tensor]:
        base = self._alpha / self._rank
        if isinstance(value, (int, float)):
            return base * value
        key = tuple(value)
        if key not in self._row_scales:
            scales = torch.tensor(key, device=self._parameters[0].device) * base
            self._row_scales[key] = {rank: scales.reshape(-1, *[1] * (rank - 1)) for rank in (3, 4)}
        return self._row_scales[key]

    def weights(self) -> dict[str, LoraWeights]:
        """Down and up weights and alpha of every layer, by the layer's name in the model."""
        return {
            name: LoraWeights(layer.lora_A[ADAPTER].weight.data, layer.lora_B[ADAPTER].weight.data, self._alpha)
            for name, layer in self._layers.items()
        }

    @classmethod
    def from_file(cls, module: nn.Module, path: Path) -> PeftLora:
        """The LoRA of a file on ``module``; NetworkError where it does not fit, or its layers differ in rank."""
        names = transformer_layers(module)
        layers = read_lora(path, names)
        shapes = {(weights.down.shape[0], weights.alpha) for weights in layers.values()}
        if len(shapes) != 1:
            raise NetworkError(f"{path} mixes ranks or alphas: {sorted(shapes)}")
        for name in names:
            if name not in layers:
                raise NetworkError(f"{path} has nothing for the layer {name}")
            if not _fits(layers[name], module.get_parameter(f"{name}.weight")):
                raise NetworkError(f"{path} is for a model of other widths than this one, as the layer {name} shows")
        rank, alpha = shapes.pop()
        network = cls(module, rank=rank, alpha=alpha, seed=0)
        for name, layer in network._layers.items():
            layer.lora_A[ADAPTER].weight.data.copy_(layers[name].down)
            layer.lora_B[ADAPTER].weight.data.copy_(layers[name].up)
        return network

    def save(self, path: Path, dtype: str, metadata: Mapping[str, str]) -> None:
        """Write the LoRA as sd-scripts does, atomically, with ``metadata`` and what describes the network."""
        described = {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(self._rank),
            "ss_network_alpha": f"{self._alpha:g}",
        }
        write_lora(path, self.weights(), dtype, {**metadata, **described})


def _fits(weights: LoraWeights, base: Tensor) -> bool:
    """Whether ``up @ down`` has the shape of the ``base`` weight (out, in, ...)."""
    rank = weights.down.shape[0]
    ones = base.shape[2:]
    return weights.down.shape == (rank, base.shape[1], *ones) and weights.up.shape == (base.shape[0], rank, *ones)


def _rank_of_input(layer: LoraLayer) -> int:
    """Dimensions of what the layer is given: (R, tokens, width) for linears, (R, C, h, w) for convolutions."""
    return 4 if isinstance(layer.get_base_layer(), nn.Conv2d) else 3
