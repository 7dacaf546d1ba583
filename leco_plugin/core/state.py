"""What a run can be taken up from: trees of plain values and tensors, so that a file of them runs no code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, Union, runtime_checkable

from torch import Tensor

StateTree: TypeAlias = Union[
    bool, int, float, str, Tensor, "Sequence[StateTree]", "Mapping[str, StateTree]", "Mapping[int, StateTree]", None
]
"""Scalars, tensors, and lists, tuples and dicts of them."""


@runtime_checkable
class Stateful(Protocol):
    """Something with a past that its further course depends on."""

    def state(self) -> StateTree:
        """All of that past."""

    def restore(self, state: StateTree) -> None:
        """Go on from ``state``, which this same kind of thing gave."""
