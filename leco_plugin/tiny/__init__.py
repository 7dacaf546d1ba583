"""``builtin:tiny``: a small Stable Diffusion 1.x that draws one flat shape, really trained and 7 MB small.

Examples, previews and tests run on it without a download or a GPU. CARD.md says what it knows and how well.
Importing this package loads neither torch nor numpy nor PIL; ask its modules for more.
"""

from pathlib import Path
from typing import Final

MODEL_FOLDER: Final[Path] = Path(__file__).resolve().parent / "model"
"""The trained model in the diffusers layout, as ``StableDiffusionPipeline.from_pretrained`` reads it."""

__all__ = ["MODEL_FOLDER"]
