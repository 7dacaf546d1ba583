"""The host's LoRA behind LECO's contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from leco_plugin.hosts.network import HostedNetwork


class HostNetwork(HostedNetwork):
    """A network of the host; its strength is the host's own ``multiplier``, and it is inactive outside of a block."""

    def __init__(self, network: Any, *, takes_rows: bool) -> None:
        """Wrap ``network``, whose layers can have a strength for each row of a batch where ``takes_rows``."""
        self._network, self.takes_rows = network, takes_rows
        self._drops = any(getattr(network, name, None) for name in ("dropout", "rank_dropout", "module_dropout"))

    def parameters(self) -> list[nn.Parameter]:
        """What the host's optimizer trains."""
        return [parameter for parameter in self._network.parameters() if parameter.requires_grad]

    @contextmanager
    def multiplier(self, value: float | Sequence[float]) -> Iterator[None]:
        """Block in which the LoRA has this strength, for the whole batch or per row; restores what it found.

        The host knows numbers and lists only; a list has one number for each row of the batch.
        """
        network = self._network
        before = network.is_active, network.multiplier
        network.is_active = True
        values = [float(each) for each in ([value] if isinstance(value, (int, float)) else value)]
        network.multiplier = values[0] if len(set(values)) == 1 else values
        if self._drops:
            # only what is trained: teacher and walk see the LoRA as it is
            network.train(torch.is_grad_enabled())
        try:
            yield
        finally:
            network.is_active, network.multiplier = before


def takes_rows(config: Any, *, arch_takes_rows: bool) -> bool:
    """Whether a network of the host's NetworkConfig ``config`` can have a strength for each row.

    DoRA, LoKr and full layers of the host take the mean of the rows' strengths.
    """
    full = config.all_layers or config.network_kwargs.get("full_if_contains")
    return arch_takes_rows and config.type.lower() in ("lora", "lierla", "locon", "c3lier") and not full
