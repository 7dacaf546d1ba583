"""What the keys of LoRA files mean, whichever trainer wrote them; plain text work, without torch.

kohya (sd-scripts, LyCORIS, ai-toolkit): ``lora_unet_<path with _>.lora_down.weight``, ``.alpha``, ``.hada_w1_a``, ...
PEFT and diffusers: ``unet.<path>.lora_A.weight``; diffusers before: ``unet.<path>.processor.to_q_lora.down.weight``.
ComfyUI's trainers: ``diffusion_model.<path>.lora_A.weight``; SimpleTuner: ``lycoris_<path with _>``. A path is
diffusers' or the original checkpoint's. The prefixes are those that ComfyUI takes (comfy/lora.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Owner = Literal["model", "text"]

_TEXT = re.compile(
    r"(base_model\.model\.)?(lora_te|lora_prior_te|lycoris_te|text_encoder|te\d?\.|text_model\.|clip_[lgh]\."
    r"|t5xxl\.|cond_stage_model\.|conditioner\.)"
)
_PREFIX = re.compile(
    r"(lora_unet_|lora_prior_unet_|lora_transformer_|lycoris_(unet_)?|base_model\.model\.|model\.diffusion_model\."
    r"|diffusion_model\.|transformer\.|unet\.|model\.)_?"
)
_FACTORS = tuple(f"{table}_{side}" for table in ("hada_w1", "hada_w2", "lokr_w1", "lokr_w2") for side in "ab")
_SAME = (
    *("lora_down.weight", "lora_up.weight", "lora_mid.weight", "lora_up.bias", "alpha", "dora_scale"),
    *("diff", "diff_b", "set_weight", "w_norm", "b_norm", "lora_magnitude_vector"),
    *("lokr_w1", "lokr_w2", "lokr_t2", "hada_t1", "hada_t2"),
    *_FACTORS,
)
_OTHER_NAMES = {
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_A": "lora_down.weight",
    "lora_B": "lora_up.weight",
    "lora_B.bias": "lora_up.bias",
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight",
    "lora_linear_layer.up.weight": "lora_up.weight",
    "down.weight": "lora_down.weight",
    "up.weight": "lora_up.weight",
    "lora_magnitude_vector.weight": "lora_magnitude_vector",
}
_NOT_READ = {
    **dict.fromkeys(("a1.weight", "a2.weight", "b1.weight", "b2.weight"), "GLoRA"),
    **dict.fromkeys(("oft_blocks", "oft_diag", "oft_R", "oft_R.weight", "rescale"), "OFT or BOFT"),
    **dict.fromkeys(("boft_R", "boft_s"), "BOFT"),
    **dict.fromkeys(("on_input", "ia3_l"), "IA3"),
    **dict.fromkeys(("lora_E", "ranknum"), "AdaLoRA"),
    **dict.fromkeys(("vera_lambda_b", "vera_lambda_d"), "VeRA"),
    "reshape_weight": "a layer of another size",
}
"""Parts that are known and not read here, by what they belong to."""
_PARTS = {**{part: part for part in (*_SAME, *_NOT_READ)}, **_OTHER_NAMES}
_ENDING = re.compile(r"\.(" + "|".join(re.escape(part) for part in sorted(_PARTS, key=len, reverse=True)) + ")$")
_NAMED_ADAPTER = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.(?!(?:weight|bias)$)[^.]+(?=\.(?:weight|bias)$|$)")
_FLAT = re.compile(r"lora_|lycoris_")


@dataclass(frozen=True)
class Key:
    """One key of a file."""

    owner: Owner
    path: str
    """The layer's path as the file has it, without the prefix of the format."""
    part: str
    """What the tensor is, by kohya's and LyCORIS' names; the rest of the key where it is none of them."""

    @property
    def layer(self) -> str:
        """The layer's path with ``_`` for every dot, the same in every format."""
        return self.path.replace(".", "_")


def read_key(key: str) -> Key:
    """Take a key apart."""
    plain = _NAMED_ADAPTER.sub(r".\1", key)
    ending = _ENDING.search(plain)
    if ending is not None:
        path, part = plain[: ending.start()], _PARTS[ending.group(1)]
    elif _FLAT.match(plain):
        path, _, part = plain.partition(".")
    else:
        path, _, part = plain.rpartition(".")
    return Key("text" if _TEXT.match(plain) else "model", _layer(path), part)


def by_layer(keys: Iterable[str]) -> dict[tuple[Owner, str], dict[str, str]]:
    """The keys of each layer, by (owner, path) and what each is; what cannot be read stands under its own ending."""
    layers: dict[tuple[Owner, str], dict[str, str]] = {}
    for key in keys:
        read = read_key(key)
        layers.setdefault((read.owner, read.path), {})[read.part] = key
    return layers


def foreign_kind(part: str) -> str:
    """The kind of network that a part which is not read belongs to; empty where that is not known."""
    return _NOT_READ.get(part, "")


def _layer(path: str) -> str:
    # prefixes may stand one behind the other: base_model.model.unet.
    while prefix := _PREFIX.match(path):
        path = path[prefix.end() :]
    if ".processor." in path:
        path = re.sub(r"to_out$", "to_out.0", path.replace(".processor.", ".").removesuffix("_lora"))
    return path
