"""A LoRA that a host has made: what is the same in every host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from leco_plugin.errors import NetworkError


class HostedNetwork:
    """Is written by the host alone."""

    def save(self, path: Path, dtype: str, metadata: Mapping[str, str]) -> None:
        """Never called: the host's savers write the LoRA."""
        raise NetworkError("the host writes the LoRA itself")
