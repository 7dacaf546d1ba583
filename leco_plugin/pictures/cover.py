"""The last picture of a run as what user interfaces show of its LoRA."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from leco_plugin.config.schema import SaveConfig
from leco_plugin.events import Event, PicturesDrawn, RunEnded
from leco_plugin.network.lora_file import add_metadata
from leco_plugin.pictures.strips import save_picture

_LARGEST = (512, 512)
"""Pixels of the picture inside a file, which every loader of the file has to read."""


class Cover:
    """Puts the first strip of the last step into the metadata of the final file, and beside it where that is asked."""

    def __init__(self, save: SaveConfig) -> None:
        self._save = save
        self._drawn: Path | None = None

    def notify(self, event: Event) -> None:
        """Remember strips; at the end, write."""
        if isinstance(event, PicturesDrawn) and event.number == 1:
            self._drawn = event.path
        elif isinstance(event, RunEnded) and not event.interrupted and self._drawn is not None:
            with Image.open(self._drawn) as drawn:
                self._write(event.path, drawn.convert("RGB"))

    def _write(self, lora: Path, picture: Image.Image) -> None:
        if self._save.sidecar:
            save_picture(lora.with_suffix(".png"), picture)
        if lora.suffix == ".safetensors" and not self._save.no_metadata:
            add_metadata(lora, {"modelspec.thumbnail": thumbnail(picture)})


def thumbnail(picture: Image.Image) -> str:
    """A small JPEG of ``picture`` as a data URI, as SwarmUI and others read it."""
    small, data = picture.copy(), io.BytesIO()
    small.thumbnail(_LARGEST)
    small.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
