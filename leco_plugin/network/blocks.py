"""Names of a UNet's layers in the original checkpoint, from those in diffusers."""

from __future__ import annotations

import re
from collections.abc import Collection

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
    r"(down_blocks|up_blocks|mid_block)(?:\.(\d+))?\.(resnets|attentions|\w+samplers)\.(\d+)(?:\.(.+))?"
)
_LAYERS_PER_BLOCK = 2
"""Resnets of one resolution on the way down, in Stable Diffusion and SDXL; on the way up it is one more."""


def original_name(layer: str, layers: Collection[str]) -> str:
    """The name of ``layer`` in an original Stable Diffusion or SDXL checkpoint; ValueError where it has none.

    ``layers`` are the names of all modules of the UNet: what an upsampler is called depends on its neighbours.
    """
    if layer in _AROUND:
        return _AROUND[layer]
    match = _BLOCK.fullmatch(layer)
    if match is None:
        raise ValueError(layer)
    side, block, kind, number, rest = match.groups()
    inside = _RESNET.get(rest, rest) if kind == "resnets" else rest
    if side == "mid_block":
        place = f"middle_block.{2 * int(number) if kind == 'resnets' else 1}"
    elif kind.endswith("samplers"):
        return _sampler(side, int(block), layers)
    else:
        place = _place(side, int(block), int(number), kind)
    return f"{place}.{inside}" if inside else place


def _place(side: str, block: int, number: int, kind: str) -> str:
    position = 0 if kind == "resnets" else 1
    in_order = (_LAYERS_PER_BLOCK + 1) * block + number
    return (
        f"input_blocks.{in_order + 1}.{position}" if side == "down_blocks" else f"output_blocks.{in_order}.{position}"
    )


def _sampler(side: str, block: int, layers: Collection[str]) -> str:
    last = (_LAYERS_PER_BLOCK + 1) * (block + 1)
    if side == "down_blocks":
        return f"input_blocks.{last}.0.op"
    # it comes after the resnet and, where there is one, the transformer
    position = 2 if f"up_blocks.{block}.attentions.0" in layers else 1
    return f"output_blocks.{last - 1}.{position}.conv"
