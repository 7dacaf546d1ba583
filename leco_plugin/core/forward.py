"""Another forward pass for a module of somebody else's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

from torch import nn

Forward = Callable[..., Any]
"""(module, the class's own forward pass, *inputs) -> output."""


def give_forward(module: nn.Module, forward: Forward) -> None:
    """Have ``module`` compute by ``forward``, in a class of its own that has the old one's name and is a kind of it.

    Not in the instance: torch.compile takes that for a part of the code, and no block would share it with its like.
    """
    module.__class__ = _with(cast(Any, type(module)), forward)


@cache
def _with(kind: Any, forward: Forward) -> type[nn.Module]:
    def own(module: nn.Module, *inputs: Any, **more: Any) -> Any:
        return forward(module, kind.forward, *inputs, **more)

    return cast(type[nn.Module], type(kind.__name__, (kind,), {"forward": own, "__module__": kind.__module__}))
