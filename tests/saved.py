"""What a model keeps for its backward pass, by torch's own hooks."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn


def kept_by(module: nn.Module, call: Callable[[], Tensor]) -> int:
    """Bytes of all tensors that wait for the backward pass of ``call``, besides the weights of ``module``."""
    there = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = weakref.ref(tensor.untyped_storage())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        predicted = call()
    # what leads nowhere has been let go of already
    alive = {place: storage for place, held in kept.items() if (storage := held()) is not None}
    assert predicted.requires_grad
    return sum(storage.nbytes() for place, storage in alive.items() if place not in there)
