"""``builtin:tiny``: a small Stable Diffusion 1.x that draws one flat shape, really trained and 7 MB small.

Examples, previews and tests run on it without a download or a GPU. CARD.md says what it knows and how well.
Importing this package loads neither torch nor numpy nor PIL; ask its modules for more.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

MODEL_FOLDER: Final[Path] = Path(__file__).resolve().parent / "model"
"""The trained model in the diffusers layout, as ``StableDiffusionPipeline.from_pretrained`` reads it."""

BUILTIN: Final[Mapping[str, Path]] = {"builtin:tiny": MODEL_FOLDER}
"""The folder of every built-in model, by the name that jobs give it."""

__all__ = ["BUILTIN", "MODEL_FOLDER"]
