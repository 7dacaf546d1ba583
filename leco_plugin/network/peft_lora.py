"""LoRA and DoRA through PEFT, with a multiplier per row of a batch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from leco_plugin.errors import NetworkError
from leco_plugin.network.dropout import Dropout
from leco_plugin.network.layers import Plan, Size, file_names, plan_layers, sizes_text, transformer_layers
from leco_plugin.network.lora_file import LoraWeights, read_lora, write_lora

ADAPTER = "leco"
__all__ = ["ADAPTER", "PeftLora", "transformer_layers"]

_MOST_ROW_SCALES = 1024
"""Combinations of strengths that are kept on the device; a run with a few pairs a step has far fewer."""


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
        dora: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._module, self._size, self._dora = module, Size(rank, alpha), dora
        self._plan = plan or plan_layers(module, self._size)
        self._names = file_names(module, self._plan)
        self._layers = _inject(module, self._plan, self._size, seed, dora)
        self._blends = [_Blend(layer) for layer in self._layers.values()] if dora else []
        self._parameters = self._prepare_parameters(dtype)
        for layer in self._layers.values():
            (dropout or Dropout()).attach(layer.lora_B[ADAPTER])
        self._row_scales: dict[tuple[object, ...], Tensor] = {}

    def _prepare_parameters(self, dtype: torch.dtype) -> list[nn.Parameter]:
        parameters = []
        for layer in self._layers.values():
            magnitude = [layer.lora_magnitude_vector[ADAPTER]] if self._dora else []
            for part in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER], *magnitude):
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

    @contextmanager
    def multiplier(self, value: float | Sequence[float]) -> Iterator[None]:
        """Block in which the LoRA has this strength, for the whole batch or per row; restores what it found."""
        if self._dora:
            places: list[tuple[dict[str, Any], float, int]] = [(b.strength, 1.0, b.dimensions) for b in self._blends]
        else:
            places = [
                (layer.scaling, self._plan[name].scale, _dimensions(name, layer))
                for name, layer in self._layers.items()
            ]
        before = [place[ADAPTER] for place, _, _ in places]
        for place, base, dimensions in places:
            place[ADAPTER] = self._scale(value, base, dimensions)
        try:
            yield
        finally:
            for (place, _, _), scale in zip(places, before, strict=True):
                place[ADAPTER] = scale

    def _scale(self, value: float | Sequence[float], base: float, dimensions: int) -> float | Tensor:
        """``base`` times the strength: a number, or (R, 1, ...) with one per row.

        For a compiled model a tensor in any case: a number would be part of what is compiled.
        """
        if not isinstance(value, (int, float)):
            key: tuple[object, ...] = (tuple(value), base, dimensions)
        elif getattr(self._module, "_compiled_call_impl", None) is None:
            return base * value
        else:
            key, dimensions = (float(value), base), 0
        if key not in self._row_scales:
            if len(self._row_scales) >= _MOST_ROW_SCALES:
                self._row_scales.clear()
            scales = torch.tensor(key[0], device=self._parameters[0].device) * base
            self._row_scales[key] = scales.reshape(-1, *[1] * (dimensions - 1)) if dimensions else scales
        return self._row_scales[key]

    def weights(self) -> dict[str, LoraWeights]:
        """Down and up weights and alpha of every layer, by the layer's name in the model."""
        return {name: self._weights(name, layer) for name, layer in self._layers.items()}

    def _weights(self, name: str, layer: LoraLayer) -> LoraWeights:
        up = layer.lora_B[ADAPTER].weight.data
        magnitude = None
        if self._dora:
            magnitude = layer.lora_magnitude_vector[ADAPTER].weight.data.reshape(-1, *[1] * (up.ndim - 1))
        return LoraWeights(layer.lora_A[ADAPTER].weight.data, up, self._plan[name].alpha, magnitude)

    @classmethod
    def from_file(cls, module: nn.Module, path: Path) -> PeftLora:
        """The LoRA of a file on ``module``; NetworkError where it does not fit, or its layers differ in rank."""
        names = transformer_layers(module)
        layers = read_weights(path, module, names)
        shapes = {(weights.down.shape[0], weights.alpha) for weights in layers.values()}
        if len(shapes) != 1:
            raise NetworkError(f"{path} mixes ranks or alphas: {sorted(shapes)}")
        rank, alpha = shapes.pop()
        check_fit(path, layers, dict.fromkeys(names, Size(rank, alpha)), module)
        network = cls(module, rank=rank, alpha=alpha, seed=0)
        network.load(layers)
        return network

    def load(self, layers: Mapping[str, LoraWeights]) -> None:
        """Take over weights that fit."""
        for name, layer in self._layers.items():
            layer.lora_A[ADAPTER].weight.data.copy_(layers[name].down)
            layer.lora_B[ADAPTER].weight.data.copy_(layers[name].up)
            if self._dora:
                held = layer.lora_magnitude_vector[ADAPTER].weight.data
                held.copy_(cast(Tensor, layers[name].magnitude).reshape(held.shape))

    def save(self, path: Path, dtype: str, metadata: Mapping[str, str]) -> None:
        """Write the LoRA as sd-scripts does, atomically, with ``metadata`` and what describes the network."""
        layers = {self._names[name]: weights for name, weights in self.weights().items()}
        write_lora(path, layers, dtype, {**metadata, **self._description()})

    def _description(self) -> dict[str, str]:
        arguments = conv_arguments(self._plan, self._size)
        if self._dora:
            arguments |= {"algo": "lora", "dora_wd": "True"}
        return {
            "ss_network_module": "lycoris.kohya" if self._dora else "networks.lora",
            "ss_network_dim": str(self._size.rank),
            "ss_network_alpha": f"{self._size.alpha:g}",
            **({"ss_network_args": json.dumps(arguments)} if arguments else {}),
        }


class _Blend:
    """Makes a DoRA layer's strength a blend between what it does at 1 and the base layer.

    DoRA is not linear in its scaling, and at scaling 0 its trained magnitude would still act; loaders blend weights
    in the same way.
    """

    def __init__(self, layer: LoraLayer) -> None:
        self.strength: dict[str, Any] = {ADAPTER: 1.0}
        base = layer.get_base_layer()
        self.dimensions = 4 if isinstance(base, nn.Conv2d) else 3
        self._base_output: Tensor | None = None
        base.register_forward_hook(self._keep)
        # also where the call ends in an error, as checkpointing ends a recomputation that has all it needs: what is
        # kept would keep the whole block's activations
        layer.register_forward_hook(self._blend, always_call=True)

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._base_output = output

    def _blend(self, module: nn.Module, inputs: object, output: Tensor | None) -> Tensor | None:
        base, self._base_output = cast(Tensor, self._base_output), None
        if output is None:
            return None
        strength = self.strength[ADAPTER]
        if isinstance(strength, Tensor):
            # a linear layer may be given (R, width) instead of (R, tokens, width)
            strength = strength.reshape(-1, *[1] * (output.ndim - 1))
        elif strength == 1.0:
            return output
        return cast(Tensor, base + strength * (output - base)).to(output.dtype)


def _inject(module: nn.Module, plan: Plan, size: Size, seed: int, dora: bool) -> dict[str, LoraLayer]:
    config = LoraConfig(
        r=size.rank,
        lora_alpha=size.alpha,
        target_modules=list(plan),
        rank_pattern={exactly(name): own.rank for name, own in plan.items() if own.rank != size.rank},
        alpha_pattern={exactly(name): own.alpha for name, own in plan.items() if own.alpha != size.alpha},
        init_lora_weights=True,
        use_dora=dora,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


def exactly(name: str) -> str:
    """PEFT reads the names in its patterns as regular expressions."""
    return name.replace(".", r"\.")


def read_weights(path: Path, module: nn.Module, layers: Iterable[str], *, dora: bool = False) -> dict[str, LoraWeights]:
    """The weights in a LoRA file for ``module``, by those of the ``layers`` that it has."""
    names = {in_file: layer for layer, in_file in file_names(module, layers).items()}
    return {names[in_file]: weights for in_file, weights in read_lora(path, names, dora=dora).items()}


def check_fit(path: Path, layers: Mapping[str, LoraWeights], plan: Plan, module: nn.Module) -> None:
    """Raise NetworkError where the weights of a file are not those that ``plan`` has for ``module``."""
    for name in plan:
        if name not in layers:
            raise NetworkError(f"{path} has nothing for the layer {name}")
        if not _fits(layers[name], module.get_parameter(f"{name}.weight")):
            raise NetworkError(f"{path} is for a model of other widths than this one, as the layer {name} shows")
    for name, weights in layers.items():
        found = Size(weights.down.shape[0], weights.alpha)
        if name not in plan:
            raise NetworkError(
                f"{path} has weights for the layer {name}, where this network has none", fix="set dim_from_weights"
            )
        if found != plan[name]:
            raise NetworkError(
                f"{path} has rank {found.rank} and alpha {found.alpha:g} where the job has rank {plan[name].rank} and "
                f"alpha {plan[name].alpha:g}",
                fix="set dim_from_weights, or the same rank and alpha",
            )


def conv_arguments(plan: Plan, linear: Size) -> dict[str, str]:
    """What a file's metadata says of convolutions that have a size of their own."""
    others = {size for name, size in plan.items() if size != linear}
    if len(others) != 1:
        return {}
    size = others.pop()
    return {"conv_dim": str(size.rank), "conv_alpha": f"{size.alpha:g}"}


def _fits(weights: LoraWeights, base: Tensor) -> bool:
    """Whether ``up @ down`` has the shape of the ``base`` weight (out, in, ...)."""
    rank, kernel = weights.down.shape[0], base.shape[2:]
    down, up = (rank, base.shape[1], *kernel), (base.shape[0], rank, *[1] * len(kernel))
    return weights.down.shape == down and weights.up.shape == up


def _dimensions(name: str, layer: LoraLayer) -> int:
    """Dimensions of what a layer is given.

    (R, C, h, w) for convolutions, (R, tokens, width) for linears, but (R, width) where the timestep comes in.
    """
    if isinstance(layer.get_base_layer(), nn.Conv2d):
        return 4
    return 2 if name.endswith("time_emb_proj") else 3
