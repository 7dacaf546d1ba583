"""A LoRA file at another strength: its alphas rewritten, or its weights where it has none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from leco_plugin.errors import NetworkError
from leco_plugin.network.differences import rank_of
from leco_plugin.network.lora_keys import by_layer

_SCALED_FACTOR = ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a", "diff")
_HASHES = ("sshs_model_hash", "sshs_legacy_hash")


def scaled(path: Path, tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """The tensors of a file whose effect at strength 1 is that of ``tensors`` at ``factor``; text encoders' too.

    Raises NetworkError for kinds of networks whose effect does not follow alpha.
    """
    result = dict(tensors)
    for keys in by_layer(tensors).values():
        if "dora_scale" in keys:
            raise NetworkError(
                f"{path} is a DoRA: its effect does not follow alpha", fix=f"use it at strength {factor:.2f} as it is"
            )
        parts = {part: tensors[key] for part, key in keys.items()}
        if "alpha" in parts and rank_of(parts) is not None:
            # float32: half precision would round the strength
            result[keys["alpha"]] = parts["alpha"].float() * factor
            continue
        name = next((part for part in _SCALED_FACTOR if part in parts), None)
        if name is None:
            raise NetworkError(f"{path} holds {next(iter(keys.values()))}, of a kind that cannot be scaled here")
        result[keys[name]] = _times(path, keys[name], parts[name], factor)
    return result


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
