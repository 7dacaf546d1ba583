"""How the weights of a model family are held so that a LoRA of it trains on a card: a first answer, by size alone.

`leco check` counts with the model's own sizes; this is for what writes a job before any of its files are there.
"""

from __future__ import annotations

from dataclasses import dataclass

from leco_plugin.config.families import FLOW_FAMILIES

_BILLIONS = {
    "z_image": 6.2, "flux": 11.9, "flux2": 32.2, "flux2_klein": 9.1, "qwen_image": 20.4, "krea2": 12.8, "chroma": 8.9,
    "sd3": 8.1, "lumina2": 2.6, "auraflow": 6.8,
}  # fmt: skip
"""Parameters of the transformer, of the larger model where a family has two; docs/models.md."""
_SMALLER = {"flux2_klein": ("4b", 3.9), "sd3": ("medium", 2.2)}
"""What the smaller model is called, and its parameters."""
_SHARE = 0.75
"""Of the card; the rest is for what a step leaves for its backward pass, and for the program itself."""
_UNET = {"sdxl": 16}
_UNET_SMALL = 8
"""GB up to which a UNet is trained with checkpointing."""


@dataclass(frozen=True)
class Fit:
    """What makes it fit."""

    checkpointing: bool = False
    eight_bits: bool = False
    offload: bool = False
    """Weights stay in main memory, and come to the card layer by layer."""


def fit(family: str | None, name: str, gigabytes: int) -> Fit:
    """For a model of ``family`` called ``name`` on a card of so many GB, 0 where there is none."""
    if gigabytes == 0:
        return Fit()
    if family is None or family not in FLOW_FAMILIES:
        return Fit(checkpointing=gigabytes <= _UNET.get(family or "", _UNET_SMALL))
    called, smaller = _SMALLER.get(family, ("", 0.0))
    billions = smaller if called and called in name.lower() else _BILLIONS[family]
    room = _SHARE * gigabytes
    return Fit(checkpointing=True, eight_bits=2 * billions > room, offload=billions > room)
