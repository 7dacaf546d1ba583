"""The built-in models: each draws one flat shape, is really trained, and is a few MB small.

``builtin:tiny`` is a Stable Diffusion 1.x, ``builtin:tiny-flow`` a Z-Image. Examples, previews and tests run on them
without a download or a GPU. CARD.md says what they know and how well.
Importing this package loads neither torch nor numpy nor PIL; ask its modules for more.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

MODEL_FOLDER: Final[Path] = Path(__file__).resolve().parent / "model"
"""The Stable Diffusion in the diffusers layout, as ``StableDiffusionPipeline.from_pretrained`` reads it."""

FLOW_FOLDER: Final[Path] = Path(__file__).resolve().parent / "flow"
"""The Z-Image in the diffusers layout, but for its VAE's weights: they are those of ``MODEL_FOLDER``."""

BUILTIN: Final[Mapping[str, Path]] = {"builtin:tiny": MODEL_FOLDER, "builtin:tiny-flow": FLOW_FOLDER}
"""The folder of every built-in model, by the name that jobs give it."""

WEIGHTS: Final[Mapping[Path, Path]] = {FLOW_FOLDER / "vae": MODEL_FOLDER / "vae"}
"""Where the weights of a folder's part are, if not in it."""

__all__ = ["BUILTIN", "FLOW_FOLDER", "MODEL_FOLDER", "WEIGHTS"]
