"""LoHa and LoKr through PEFT, in LyCORIS' file format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig
from peft.tuners.lycoris_utils import LycorisLayer
from torch import Tensor, nn

from leco_plugin.errors import NetworkError
from leco_plugin.network.dropout import Dropout
from leco_plugin.network.layers import Plan, Size, file_names, sizes_text
from leco_plugin.network.lora_file import kohya_tensors, write_lora
from leco_plugin.network.peft_lora import ADAPTER, describe, inject
from leco_plugin.network.start import Start

# what rank_dropout leaves is scaled up, as LoHa does anyway
_CONFIGS: Mapping[str, Any] = {"loha": LoHaConfig, "lokr": partial(LoKrConfig, rank_dropout_scale=True)}


class PeftLycoris:
    """LoHa (arXiv:2108.06098) or LoKr (arXiv:2212.10650) on layers of a UNet.

    Their weight is put together before it meets the input, so a batch has one strength.
    """

    takes_rows = False

    def __init__(
        self,
        module: nn.Module,
        kind: str,
        *,
        size: Size,
        plan: Plan,
        seed: int,
        dropout: Dropout | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._kind, self._size, self._plan = kind, size, plan
        self._names = file_names(module, plan)
        dropout = dropout or Dropout()
        drops = {"rank_dropout": dropout.rank, "module_dropout": dropout.module}
        config = partial(_CONFIGS[kind], alpha=size.alpha, **drops)
        self._layers: dict[str, Any] = inject(module, LycorisLayer, config, plan, size, seed)
        self._scales = {name: self._own_scale(name) for name in self._layers}
        for layer in self._layers.values():
            layer.register_forward_pre_hook(partial(_set_training, drops=bool(dropout.rank or dropout.module)))
            layer.scaling[ADAPTER] = 1.0
            for parameter in self._parts(layer).values():
                parameter.data = parameter.data.to(dtype)
                parameter.requires_grad_(True)
        self._set(1.0)
        self.notes: tuple[str, ...] = ()
        """What the user has to know of it."""

    def _own_scale(self, name: str) -> float:
        # LyCORIS has no rank where both factors of a LoKr layer are whole, and then no scaling by alpha either
        whole = {"lokr_w1", "lokr_w2"} <= self._parts(self._layers[name]).keys()
        return 1.0 if whole else self._plan[name].scale

    def _parts(self, layer: LycorisLayer) -> dict[str, nn.Parameter]:
        """The layer's weights by their names in LyCORIS and PEFT alike."""
        tables = {name: getattr(layer, name) for name in layer.adapter_layer_names}
        return {name: table[ADAPTER] for name, table in tables.items() if ADAPTER in table}

    @property
    def sizes(self) -> str:
        """Its ranks and alphas in words."""
        return sizes_text(self._plan)

    def parameters(self) -> list[nn.Parameter]:
        """All weights, layer by layer."""
        return [parameter for layer in self._layers.values() for parameter in self._parts(layer).values()]

    @contextmanager
    def multiplier(self, value: float | Sequence[float]) -> Iterator[None]:
        """Block in which the network has this strength, one number for all rows; restores what it found."""
        values = {float(value)} if isinstance(value, (int, float)) else set(map(float, value))
        if len(values) != 1:
            raise ValueError(f"{self._kind} takes one strength at a time, not {sorted(values)}")
        before = self._strength
        self._set(values.pop())
        try:
            yield
        finally:
            self._set(before)

    def _set(self, strength: float) -> None:
        self._strength = strength
        for name, layer in self._layers.items():
            layer.scaling[ADAPTER] = strength * self._scales[name]

    def load(self, start: Start) -> None:
        """Take over the weights of a file that were checked to fit; NetworkError where it is factored otherwise."""
        for name, layer in self._layers.items():
            own, found = self._parts(layer), start.layers[name]
            shapes = {part: weight.shape for part, weight in own.items()}
            if {part: tensor.shape for part, tensor in found.items()} != shapes:
                raise NetworkError(
                    f"{start.path} is factored in another way than this network, as the layer {name} shows",
                    fix="use a file that was trained here",
                )
            for part, parameter in own.items():
                parameter.data.copy_(found[part])
        self.notes = start.notes

    def save(self, path: Path, dtype: str, metadata: Mapping[str, str]) -> None:
        """Write the network as LyCORIS does, atomically, with ``metadata`` and what describes the network."""
        layers: dict[str, dict[str, Tensor]] = {}
        for name, layer in self._layers.items():
            parts: dict[str, Tensor] = {part: weight.data for part, weight in self._parts(layer).items()}
            layers[self._names[name]] = {**parts, "alpha": torch.tensor(self._plan[name].alpha)}
        described = describe("lycoris.kohya", self._plan, self._size, {"algo": self._kind})
        write_lora(path, kohya_tensors(layers), dtype, {**metadata, **described})


def _set_training(layer: nn.Module, inputs: object, *, drops: bool) -> None:
    """PEFT drops in training mode, which tells nothing here: it stays on for checkpointing."""
    # the layer alone, not what it holds
    layer.training = drops and torch.is_grad_enabled()
