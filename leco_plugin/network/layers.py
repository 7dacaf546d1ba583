"""Which layers of a UNet a network goes on, at which rank, and what they are called in a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from leco_plugin.config.layer_choice import Choice
from leco_plugin.errors import NetworkError
from leco_plugin.network.blocks import original_names
from leco_plugin.network.flow_files import family_of, flow_layers

_TRANSFORMERS = ("Transformer2DModel",)
_CONVOLUTIONS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
_MOST_SIZES = 3


@dataclass(frozen=True)
class Size:
    """How large a layer's part of the network is, and by how much it is scaled: alpha / rank."""

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """What the layer's effect is multiplied with at strength 1."""
        return self.alpha / self.rank


Plan = dict[str, Size]
"""Sizes by the layers' names in the model."""


def transformer_layers(module: nn.Module) -> list[str]:
    """Names of the attention and feed-forward linears and 1x1 projections inside ``module``'s transformer blocks."""
    return [name for name, layer in _inside(module, _TRANSFORMERS) if not _is_wide(layer)]


def convolution_layers(module: nn.Module) -> dict[str, bool]:
    """Names of the layers of ``module``'s resnets and resamplers, and whether they are 3x3 convolutions."""
    return {name: _is_wide(layer) for name, layer in _inside(module, _CONVOLUTIONS)}


def plan_layers(module: nn.Module, linear: Size, conv: Size | None = None, choice: Choice | None = None) -> Plan:
    """The layers that ``choice`` takes: those of the transformer blocks, and with ``conv`` those of the resnets.

    As in sd-scripts, 3x3 convolutions have the size ``conv`` and all else has ``linear``. Raises NetworkError where
    nothing is left.
    """
    family = family_of(module)
    plan = dict.fromkeys(flow_layers(module, family) if family else transformer_layers(module), linear)
    if not plan:
        raise NetworkError(f"{type(module).__name__} has no transformer block that a LoRA could go on")
    if conv is not None and family is None:
        plan |= {name: conv if wide else linear for name, wide in convolution_layers(module).items()}
    choice = choice or Choice()
    chosen = {name: size for name, size in plan.items() if choice.takes(name)}
    if not chosen:
        raise NetworkError("the network goes on no layer at all", fix="loosen network.layers and what stands beside it")
    return chosen


def sizes_text(plan: Plan) -> str:
    """The ranks and alphas of ``plan``, such as ``rank 4, alpha 2``, with the most frequent first where they differ."""
    sizes = Counter(plan.values())
    return "; ".join(f"rank {size.rank}, alpha {size.alpha:g}" for size, _ in sizes.most_common(_MOST_SIZES)) + (
        f"; and {len(sizes) - _MOST_SIZES} more sizes" if len(sizes) > _MOST_SIZES else ""
    )


def file_names(module: nn.Module, layers: Collection[str]) -> dict[str, str]:
    """What each of ``layers`` is called in a LoRA file: as in diffusers, and in SDXL's files as in its checkpoint."""
    config: Any = getattr(module, "config", None)
    if getattr(config, "addition_embed_type", None) != "text_time":
        return {layer: layer for layer in layers}
    names = original_names({name for name, _ in module.named_modules()})
    missing = next((layer for layer in layers if layer not in names), None)
    if missing is not None:
        raise NetworkError(f"the layer {missing} has no name in a LoRA file for SDXL")
    return {layer: names[layer] for layer in layers}


def _inside(module: nn.Module, blocks: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    for block_name, block in module.named_modules():
        if type(block).__name__ not in blocks:
            continue
        for name, layer in block.named_modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                yield f"{block_name}.{name}", layer


def _is_wide(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
