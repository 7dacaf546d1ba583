"""What the tensors of one layer of a LoRA file add to its weight and bias, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

Parts = Mapping[str, Tensor]
LORA = frozenset({"lora_down.weight", "lora_up.weight"})
LENGTHS = ("dora_scale", "lora_magnitude_vector")
"""DoRA's lengths: LyCORIS' of outputs or inputs, PEFT's of outputs always."""
_LOHA = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
_CORES = {"LoRA": ("lora_mid.weight",), "LoHa": ("hada_t1", "hada_t2"), "LoKr": ("lokr_t2",), "full": ()}
_WHOLE = ("diff", "w_norm", "set_weight")
_BIASES = ("diff_b", "b_norm")
_RANKED = (("lora_down.weight", 0), ("hada_w1_b", 0), ("lokr_w1_b", 0), ("lokr_w2_b", 0))


def networks(parts: Parts) -> dict[str, tuple[str, ...]]:
    """The networks that ``parts`` hold whole, and which parts are of each: LoRA, LoHa, LoKr, full, bias."""
    found: dict[str, tuple[str, ...]] = {}
    # AdaLoRA's third factor stands between these two
    if parts.keys() >= LORA and "lora_E" not in parts:
        found["LoRA"] = (*LORA, "lora_up.bias")
    if parts.keys() >= _LOHA:
        found["LoHa"] = tuple(_LOHA)
    factors = [_factor_names(parts, name) for name in ("lokr_w1", "lokr_w2")]
    if all(factors):
        found["LoKr"] = tuple(name for names in factors for name in names)
    if any(name in parts for name in _WHOLE):
        found["full"] = _WHOLE
    found = {kind: tuple(p for p in (*names, *_CORES[kind]) if p in parts) for kind, names in found.items()}
    biases = tuple(name for name in _BIASES if name in parts)
    return {**found, **({"bias": biases} if biases else {})}


def is_set(parts: Parts) -> bool:
    """Whether a layer gets another weight instead of a change; ComfyUI sets it at every strength but 0."""
    return "set_weight" in parts


def is_factor(part: str) -> bool:
    """Whether a part is nothing without another one."""
    return part in LORA or part in _LOHA or part.startswith("lokr_w")


def unread(parts: Parts) -> set[str]:
    """The names of the parts that nothing here reads."""
    read = {name for names in networks(parts).values() for name in names}
    return parts.keys() - read - ({"alpha", *LENGTHS} if read else set())


def weight_changes(parts: Parts, scale: float) -> Iterator[Tensor]:
    """What is added to a weight (out, in, ...) at strength 1, from each network that ``parts`` hold.

    RuntimeError, IndexError or ValueError where they do not fit each other. Sources: LoRA arXiv:2106.09685, LoHa
    arXiv:2108.06098, LoKr arXiv:2212.10650.
    """
    found = networks(parts)
    if "LoRA" in found:
        yield scale * _lora(parts)
    if "LoHa" in found:
        yield scale * _factor(parts, "hada_w1", "hada_t1") * _factor(parts, "hada_w2", "hada_t2")
    if "LoKr" in found:
        first, second = _factor(parts, "lokr_w1", None), _factor(parts, "lokr_w2", "lokr_t2")
        wide = first.reshape((*first.shape, *[1] * (second.ndim - 2)))
        yield scale * torch.kron(wide.contiguous(), second.contiguous())
    yield from (parts[name] for name in ("diff", "w_norm") if name in parts)


def bias_changes(parts: Parts, scale: float) -> Iterator[Tensor]:
    """What is added to a bias (out,) at strength 1; that of PEFT's ``lora_B`` is scaled as its weight."""
    if "LoRA" in networks(parts) and "lora_up.bias" in parts:
        yield scale * parts["lora_up.bias"].flatten()
    yield from (parts[name].flatten() for name in _BIASES if name in parts)


def squared_length(parts: Parts, scale: float) -> float:
    """Squared length of what is added to weight and bias."""
    found = networks(parts)
    total = sum(float(change.double().square().sum()) for change in bias_changes(parts, scale))
    if found.keys() - {"bias"} == {"LoRA"} and "lora_mid.weight" not in parts:
        # |up @ down|^2 by the small products of each with itself
        down, up = (parts[name].double().flatten(1) for name in ("lora_down.weight", "lora_up.weight"))
        return total + scale**2 * float(((up.T @ up) * (down @ down.T)).sum())
    changes = [change.double().flatten() for change in weight_changes(parts, scale)]
    return total + float(torch.stack(changes).sum(0).square().sum()) if changes else total


def is_idle(parts: Parts) -> bool:
    """Whether all that is read changes nothing, as before the first step of training: one factor of each is zero."""
    found = networks(parts)
    whole = [name for kind in ("full", "bias") for name in found.get(kind, ())]
    whole += [name for name in found.get("LoRA", ()) if name == "lora_up.bias"]
    factored = [names for kind, names in found.items() if kind not in ("full", "bias")]
    zero = {name for names in found.values() for name in names if not parts[name].any()}
    return zero.issuperset(whole) and all(zero & (set(names) - {"lora_up.bias"}) for names in factored)


def rank_of(parts: Parts) -> int | None:
    """The rank of a factored layer; None where nothing is factored."""
    return next((parts[name].shape[side] for name, side in _RANKED if name in parts and parts[name].ndim), None)


def _lora(parts: Parts) -> Tensor:
    down, up = parts["lora_down.weight"], _plain(parts["lora_up.weight"])
    middle = parts.get("lora_mid.weight")
    if middle is not None:
        return torch.einsum("op,pqhw,qi->oihw", up, middle, _plain(down))
    return (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def _plain(table: Tensor) -> Tensor:
    """(a, b) of a linear layer or of a 1x1 convolution."""
    if table.numel() != table.shape[0] * table.shape[1]:
        raise ValueError("no table")
    return table.flatten(1)


def _factor_names(parts: Parts, name: str) -> tuple[str, ...]:
    """The parts that a factor is made of: itself, or two; none where it is not whole."""
    both = (f"{name}_a", f"{name}_b")
    return (name,) if name in parts else both if all(side in parts for side in both) else ()


def _factor(parts: Parts, name: str, core: str | None) -> Tensor:
    """A factor of LoHa or LoKr: whole, or a product of two, or of two and a core."""
    if name in parts:
        return parts[name]
    first, second = parts[f"{name}_a"], parts[f"{name}_b"]
    if core is not None and core in parts:
        return torch.einsum("pqhw,po,qi->oihw", parts[core], first, second)
    return (first @ second.flatten(1)).reshape(len(first), *second.shape[1:])
