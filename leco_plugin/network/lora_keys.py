"""What the keys of LoRA files mean, whichever trainer wrote them; plain text work, without torch.

kohya (sd-scripts, LyCORIS, ai-toolkit): ``lora_unet_<path with _>.lora_down.weight``, ``.alpha``, ``.hada_w1_a``, ...
PEFT and diffusers: ``unet.<path>.lora_A.weight``; diffusers before: ``unet.<path>.processor.to_q_lora.down.weight``.
ComfyUI's trainers: ``diffusion_model.<path>.lora_A.weight``. A path is diffusers' or the original checkpoint's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Owner = Literal["unet", "text", "other"]

_TEXT = ("lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "text_encoder.", "text_encoder_2.", "te1.", "te2.", "te.")
_UNET = ("lora_unet_", "lycoris_unet_", "base_model.model.", "diffusion_model.", "transformer.", "model.", "unet.")
_SAME = ("alpha", "dora_scale", "diff", "lora_mid.weight", "lokr_w1", "lokr_w2", "lokr_t2", "hada_t1", "hada_t2")
_FACTORS = tuple(f"{table}_{side}" for table in ("hada_w1", "hada_w2", "lokr_w1", "lokr_w2") for side in "ab")
_OTHER_NAMES = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "down.weight": "lora_down.weight",
    "up.weight": "lora_up.weight",
    "lora_magnitude_vector": "dora_scale",
    "lora_magnitude_vector.weight": "dora_scale",
}
_PARTS = {**{part: part for part in ("lora_down.weight", "lora_up.weight", *_SAME, *_FACTORS)}, **_OTHER_NAMES}
_ENDING = re.compile(r"\.(" + "|".join(re.escape(part) for part in sorted(_PARTS, key=len, reverse=True)) + ")$")
_NAMED_ADAPTER = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.(?!weight$)\w+(?=\.weight$|$)")
_TO_OUT = re.compile(r"to_out$")


@dataclass(frozen=True)
class Key:
    """One key of a file."""

    owner: Owner
    layer: str
    """The layer's path with ``_`` for every dot, without the prefix of the format."""
    part: str
    """What the tensor is, by kohya's and LyCORIS' names; the rest of the key where it is none of them."""

    @property
    def known(self) -> bool:
        """Whether it is a part that can be read."""
        return self.part in _PARTS


def read_key(key: str) -> Key:
    """Take a key apart."""
    plain = _NAMED_ADAPTER.sub(r".\1", key)
    ending = _ENDING.search(plain)
    if ending is None:
        path, _, rest = plain.partition(".") if plain.startswith(("lora_", "lycoris_")) else plain.rpartition(".")
        return Key(_owner(plain), _layer(path), rest)
    return Key(_owner(plain), _layer(plain[: ending.start()]), _PARTS[ending.group(1)])


def by_layer(keys: Iterable[str]) -> dict[tuple[Owner, str], dict[str, str]]:
    """The keys of each layer, by what each is; what cannot be read stands under its own ending."""
    layers: dict[tuple[Owner, str], dict[str, str]] = {}
    for key in keys:
        read = read_key(key)
        layers.setdefault((read.owner, read.layer), {})[read.part] = key
    return layers


class Numbers(Protocol):
    """A tensor, of torch or of numpy."""

    def any(self) -> Any:
        """Whether a number of it is not 0."""


def does_nothing(parts: Mapping[str, Numbers]) -> bool:
    """Whether a layer's change is all zeros, as before the first step of training: one of its factors is."""
    return any(not tensor.any() for part, tensor in parts.items() if part != "dora_scale")


def alphas(metadata: Mapping[str, str], layers: Collection[str]) -> dict[str, float]:
    """Alphas of PEFT layers that have no key of their own, from diffusers' ``lora_adapter_metadata``."""
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        common = config.get("unet.lora_alpha", config.get("lora_alpha"))
        patterns = config.get("unet.alpha_pattern", config.get("alpha_pattern")) or {}
        found = {} if common is None else dict.fromkeys(layers, float(common))
        found.update({name.replace(".", "_"): float(value) for name, value in patterns.items()})
    # foreign metadata may hold anything
    except (ValueError, TypeError, AttributeError):
        return {}
    return {layer: alpha for layer, alpha in found.items() if layer in layers}


def _owner(key: str) -> Owner:
    if key.startswith(_TEXT):
        return "text"
    return "unet" if key.startswith((*_UNET, "down_blocks.", "up_blocks.", "mid_block.")) else "other"


def _layer(path: str) -> str:
    # prefixes may stand one behind the other: base_model.model.unet.
    shorter = True
    while shorter:
        shorter = False
        for prefix in _UNET:
            if path.startswith(prefix):
                path, shorter = path.removeprefix(prefix), True
    if ".processor." in path:
        path = _TO_OUT.sub("to_out.0", path.replace(".processor.", ".").removesuffix("_lora"))
    return path.replace(".", "_")
