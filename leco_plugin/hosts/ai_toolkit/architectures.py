"""Which model families of ai-toolkit LECO trains: those whose prediction means what LECO's arithmetic needs.

Read off each family's loss target in the host, version 0.12.26: epsilon, v, or for flow models noise - data.
"""

from __future__ import annotations

from collections.abc import Mapping

from leco_plugin.config.families import family_of_arch
from leco_plugin.errors import ModelError

DIFFUSION = frozenset({"sd1", "sd2", "sdxl"})
"""Predict epsilon or v."""
FLOW = frozenset(
    {
        "anima", "boogu_image", "chroma", "ernie_image", "flux", "flux2", "flux2_klein_4b", "flux2_klein_9b",
        "hidream", "ideogram4", "krea2", "lumina2", "mageflow", "nucleus_image", "qwen_image", "sd3", "zimage",
    }
)  # fmt: skip
"""Predict noise - data at timesteps 0..1000."""
_EDIT = "edits pictures, and needs one beside every prompt"
_MOVES = "makes video or sound, not pictures"
_PIXELS = "works on pixels in a way that LECO was not made for"
_REASONS: Mapping[str, str] = {
    "flex2": "paints into a picture, and needs one beside every prompt",
    "omnigen2": "predicts data - noise",
    "f-lite": "predicts data - noise",
    "prx_pixel": "predicts the picture itself",
    "hidream_o1": "scales its noise",
    "cogview4": "has a loss target of its own",
    "auraflow": "takes one sample at a time in this host",
    **dict.fromkeys(("pixart", "pixart_sigma", "ssd", "vega"), "is not tested with LECO"),
    "chroma_radiance": _PIXELS,
    "zeta_chroma": _PIXELS,
    "zimage_l2p": _PIXELS,
    "flux_kontext": _EDIT,
    "hidream_e1": _EDIT,
    "qwen_image_edit": _EDIT,
    "qwen_image_edit_plus": _EDIT,
    "boogu_image_edit": _EDIT,
    "mageflow_edit": _EDIT,
}
_FAMILIES: Mapping[str, str] = {"wan": _MOVES, "ltx": _MOVES, "minimax": _MOVES, "ace_step": _MOVES}

ROWS = frozenset({"sd1", "sd2", "sdxl", "flux"})
"""Families in which every layer sees the rows of a batch apart, so that each can have a LoRA strength of its own."""

MIXED = frozenset({"chroma", "hidream", "mageflow", "nucleus_image"})
"""Families of which the host asks for several prompts in one call as if they were one: by a padding mask or a length
that all share, or by the place that a row has (mageflow)."""
FLOWMATCH = frozenset({"flux", "sd3", "lumina2"})
"""Flow models that the host itself gives the scheduler which the job names."""


def check_architecture(arch: str) -> None:
    """Refuse a family that LECO cannot train, by name; ModelError."""
    if arch in DIFFUSION or arch in FLOW:
        return
    prefixed = next((reason for prefix, reason in _FAMILIES.items() if arch.startswith(prefix)), "is not known to LECO")
    known = ", ".join(sorted(DIFFUSION | FLOW))
    raise ModelError(f"model.arch {arch!r} {_REASONS.get(arch, prefixed)}", fix=f"LECO trains {known}")


def family_of(arch: str) -> str:
    """Its name in ``config.defaults.ROWS``."""
    known = family_of_arch(arch)
    return known.name if known else arch if arch in DIFFUSION else "other_flow"
