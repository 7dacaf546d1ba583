"""What the tensors of one layer of a LoRA file add to its weight, for every kind of file that is read here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

LORA = frozenset({"lora_down.weight", "lora_up.weight"})
_HADA = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
Parts = Mapping[str, Tensor]


def difference(parts: Parts, alpha: float | None) -> Tensor | None:
    """The change of a weight (out, in, ...) at strength 1, from parts as ``lora_keys`` names them.

    None where they are of no kind that is known; RuntimeError where they do not fit each other. Without ``alpha`` a
    factored change is not scaled. Sources: LoRA arXiv:2106.09685, LoHa arXiv:2108.06098, LoKr arXiv:2212.10650.
    """
    names = parts.keys() - {"alpha", "dora_scale"}
    if names in (LORA, LORA | {"lora_mid.weight"}):
        return scale(parts, alpha) * _lora(parts)
    if names in (_HADA, _HADA | {"hada_t1", "hada_t2"}):
        return scale(parts, alpha) * _factor(parts, "hada_w1", "hada_t1") * _factor(parts, "hada_w2", "hada_t2")
    if names == {"diff"}:
        return parts["diff"]
    if names and all(name.startswith("lokr_") for name in names):
        first, second = _factor(parts, "lokr_w1", None), _factor(parts, "lokr_w2", "lokr_t2")
        wide = first.reshape(*first.shape, *[1] * (second.ndim - 2))
        return scale(parts, alpha) * torch.kron(wide, second.contiguous())
    return None


def scale(parts: Parts, alpha: float | None) -> float:
    """alpha / rank; 1 without an alpha, or for a LoKr layer of two whole factors, which has no rank."""
    rank = rank_of(parts)
    return 1.0 if alpha is None or rank is None else alpha / rank


def rank_of(parts: Parts) -> int | None:
    """The rank of a factored layer; None where nothing is factored."""
    for name, dimension in (("lora_down.weight", 0), ("hada_w1_b", 0), ("lokr_w1_b", 0), ("lokr_w2_b", 0)):
        if name in parts:
            return int(parts[name].shape[dimension])
    return None


def _lora(parts: Parts) -> Tensor:
    down, up = parts["lora_down.weight"], parts["lora_up.weight"].flatten(1)
    middle = parts.get("lora_mid.weight")
    if middle is not None:
        return torch.einsum("op,pqhw,qi->oihw", up, middle, down.flatten(1))
    return (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def _factor(parts: Parts, name: str, core: str | None) -> Tensor:
    """A factor of LoHa or LoKr: whole, or a product of two, or of two and a core."""
    if name in parts:
        return parts[name]
    first, second = parts.get(f"{name}_a"), parts.get(f"{name}_b")
    if first is None or second is None:
        raise RuntimeError(f"{name} is not whole")
    if core is not None and core in parts:
        return torch.einsum("pqhw,po,qi->oihw", parts[core], first, second)
    return (first @ second.flatten(1)).reshape(len(first), *second.shape[1:])
