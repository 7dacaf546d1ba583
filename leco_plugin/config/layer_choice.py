"""Which of the layers that a network could go on it does go on, told by their names in diffusers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# LECO and Concept Sliders call these training methods; each names what a layer's path holds, or must not hold
_CHOICES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "all": ((), ()),
    "attention": (("attn1", "attn2"), ()),
    "xattn": (("attn2",), ()),
    "selfattn": (("attn1",), ()),
    "noxattn": ((), ("attn2",)),
}


@dataclass(frozen=True)
class Choice:
    """Which of the possible layers are taken."""

    layers: str = "all"
    """all, attention, xattn, selfattn or noxattn."""
    only_if_contains: Sequence[str] = ()
    ignore_if_contains: Sequence[str] = ()

    def takes(self, name: str) -> bool:
        """Whether the layer with this name in the model is one of them."""
        some, none = _CHOICES[self.layers]
        wanted = (not some or _any_in(some, name)) and not _any_in(none, name)
        wanted = wanted and (not self.only_if_contains or _any_in(self.only_if_contains, name))
        return wanted and not _any_in(self.ignore_if_contains, name)


def _any_in(parts: Iterable[str], name: str) -> bool:
    return any(part in name for part in parts)
