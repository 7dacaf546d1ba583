"""The host's samples as events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leco_plugin.events import PicturesDrawn


def drawn(configs: Sequence[Any], step: int) -> Iterator[PicturesDrawn]:
    """An event for each picture of the host's GenerateImageConfigs that is there: one seed, one strength."""
    paths = [Path(config.get_image_path(number)) for number, config in enumerate(configs)]
    there = [(path, config) for path, config in zip(paths, configs, strict=True) if path.is_file()]
    for number, (path, config) in enumerate(there, start=1):
        yield PicturesDrawn(
            path=path,
            step=step,
            prompt=str(config.prompt),
            seeds=(int(config.seed),),
            multipliers=(float(config.network_multiplier),),
            number=number,
            of=len(there),
            framed=False,
        )
