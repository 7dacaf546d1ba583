"""A LoRA file at another strength: its alphas rewritten, or its weights where it has none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from leco_plugin.errors import NetworkError
from leco_plugin.network.differences import LENGTHS, rank_of, unread
from leco_plugin.network.lora_read import Layer, LoraFile

_SCALED = (
    *("lora_up.weight", "lora_up.bias", "hada_w1_a", "lokr_w1", "lokr_w1_a"),
    *("diff", "w_norm", "diff_b", "b_norm"),
)
"""Of each network, what its effect is proportional to."""
_WITHOUT_ALPHA = ("diff", "w_norm", "diff_b", "b_norm")
_HASHES = ("sshs_model_hash", "sshs_legacy_hash")


def scaled(lora: LoraFile, factor: float) -> dict[str, Tensor]:
    """The tensors of a file whose effect at strength 1 is that of ``lora`` at ``factor``; text encoders' too.

    A scale that stands in adapter_config.json, which does not go with another file, goes into the weights. Raises
    NetworkError for kinds of networks whose effect does not follow alpha.
    """
    result = dict(lora.tensors)
    for layer in lora.layers:
        _refuse(lora.path, layer, factor)
        by_alpha = "alpha" in layer.parts and rank_of(layer.parts) is not None
        if by_alpha:
            # float32: half precision would round the strength
            result[layer.keys["alpha"]] = layer.parts["alpha"].float() * factor
        for part in layer.parts.keys() & set(_WITHOUT_ALPHA if by_alpha else _SCALED):
            folded = layer.scale if lora.scale_beside and part not in _WITHOUT_ALPHA else 1.0
            result[layer.keys[part]] = _times(lora.path, layer.keys[part], layer.parts[part], factor * folded)
    return result


def _refuse(path: Path, layer: Layer, factor: float) -> None:
    if any(name in layer.parts for name in LENGTHS):
        raise NetworkError(
            f"{path} is a DoRA: its effect does not follow alpha", fix=f"use it at strength {factor:.2f} as it is"
        )
    odd = next(iter(sorted(unread(layer.parts) | (layer.parts.keys() & {"set_weight"}))), None)
    if odd is not None:
        raise NetworkError(f"{path} holds {layer.keys[odd]}, of a kind that cannot be scaled here")


def scaled_metadata(metadata: Mapping[str, str], factor: float) -> dict[str, str]:
    """Metadata that tells of the new alphas; without the hashes of what was before."""
    kept = {key: value for key, value in metadata.items() if key not in _HASHES}
    if "ss_network_alpha" in kept:
        kept["ss_network_alpha"] = _scaled_text(kept["ss_network_alpha"], factor)
    try:
        arguments = json.loads(kept.get("ss_network_args", "{}"))
    except ValueError:
        return kept
    if isinstance(arguments, dict) and "conv_alpha" in arguments:
        arguments["conv_alpha"] = _scaled_text(str(arguments["conv_alpha"]), factor)
        kept["ss_network_args"] = json.dumps(arguments)
    return kept


def _times(path: Path, key: str, tensor: Tensor, factor: float) -> Tensor:
    product = (tensor.float() * factor).to(tensor.dtype)
    if not product.isfinite().all():
        raise NetworkError(f"{path} cannot be scaled by {factor:.3g}: {key} would not be finite in {tensor.dtype}")
    return product


def _scaled_text(alpha: str, factor: float) -> str:
    try:
        return f"{float(alpha) * factor:g}"
    # other trainers write words there, such as "Dynamic"
    except ValueError:
        return alpha
