"""Names of a UNet's layers in the original checkpoint, from those in diffusers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_AROUND = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_BLOCK = re.compile(
    r"(down_blocks|up_blocks|mid_block)(?:(?<=_blocks)\.(\d+))?\.(resnets|attentions|\w+samplers)\.(\d+)(?:\.(.+))?"
)
_RESNET_OF = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.resnets\.(\d+)")


def original_names(layers: Collection[str]) -> dict[str, str]:
    """The names of ``layers`` in an original Stable Diffusion or SDXL checkpoint, without those that have none.

    ``layers`` are the names of all modules of the UNet: how many resnets its blocks have (its ``layers_per_block``),
    and which have transformers, is seen from them.
    """
    starts = _starts(layers)
    found = {layer: _original_name(layer, layers, starts) for layer in layers}
    return {layer: name for layer, name in found.items() if name is not None}


def _starts(layers: Collection[str]) -> dict[tuple[str, int], int]:
    """The number in order at which each block begins; on the way down a resampler counts too."""
    resnets: dict[str, Counter[int]] = {"down_blocks": Counter(), "up_blocks": Counter()}
    for side, block, _ in {match.groups() for layer in layers if (match := _RESNET_OF.match(layer))}:
        resnets[side][int(block)] += 1
    starts = {}
    for side, first in (("down_blocks", 1), ("up_blocks", 0)):
        # one block beyond the last: where the one before it ends
        for block in range(len(resnets[side]) + 1):
            starts[side, block] = first
            first += resnets[side][block] + (1 if side == "down_blocks" else 0)
    return starts


def _original_name(layer: str, layers: Collection[str], starts: Mapping[tuple[str, int], int]) -> str | None:
    if layer in _AROUND:
        return _AROUND[layer]
    match = _BLOCK.fullmatch(layer)
    if match is None or (match[1] != "mid_block" and (match[1], int(match[2]) + 1) not in starts):
        return None
    side, block, kind, number, rest = match.groups()
    inside = _RESNET.get(rest, rest) if kind == "resnets" else rest
    if side == "mid_block":
        place = f"middle_block.{2 * int(number) if kind == 'resnets' else 1}"
    elif kind.endswith("samplers"):
        return _sampler(side, int(block), layers, starts)
    else:
        blocks = "input_blocks" if side == "down_blocks" else "output_blocks"
        place = f"{blocks}.{starts[side, int(block)] + int(number)}.{0 if kind == 'resnets' else 1}"
    return f"{place}.{inside}" if inside else place


def _sampler(side: str, block: int, layers: Collection[str], starts: Mapping[tuple[str, int], int]) -> str:
    last = starts[side, block + 1] - 1
    if side == "down_blocks":
        return f"input_blocks.{last}.0.op"
    # it comes after the resnet and, where there is one, the transformer
    position = 2 if f"up_blocks.{block}.attentions.0" in layers else 1
    return f"output_blocks.{last}.{position}.conv"
