"""The settings of other trainers: what each is called here, when it asks for nothing, and what is lost where it does.

LECO and Concept Sliders have one schema; ai-toolkit's is that of its processes `slider` and `concept_slider`, with all
that its web UI writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from leco_plugin.config.yaml_file import scalar

ANY = object()
"""Stands for every value."""


@dataclass(frozen=True)
class Row:
    """One setting of another trainer."""

    to: str = ""
    """What it is called here, as section.name; empty: it has no counterpart."""
    why: str = ""
    """What is said where it has none."""
    off: tuple[object, ...] = ()
    """Values that ask for nothing, besides null, an empty text, list or table."""
    default: object = None
    """What its trainer takes where it is not written, and this one does not."""
    needs: str = ""
    """Another setting without which this one asks for nothing."""
    words: Mapping[str, object] = field(default_factory=dict)
    """Its words, in lower case, for our values."""

    def is_off(self, value: object) -> bool:
        """Say whether a value asks for nothing."""
        if value is None or value in ("", [], {}) or ANY in self.off or value in self.off:
            return True
        return value is False and not self.to and True not in self.off


_TYPES = {"lierla": "lora", "c3lier": "lora", "locon": "lora"}
_LOSSES = {"mse": "l2", "mae": "l1", "pseudo_huber": "huber"}
METHODS: Mapping[str, Mapping[str, object]] = {
    "innoxattn": {"layers": "noxattn"},
    "xattn-strict": {"layers": "xattn", "ignore_if_contains": ["to_out"]},
    "noxattn-hspace": {"layers": "noxattn", "only_if_contains": ["mid_block"]},
    "noxattn-hspace-last": {"layers": "noxattn", "only_if_contains": ["mid_block.resnets.1.conv2"]},
}
"""Training methods of LECO and Concept Sliders that are several settings here."""

_WORDS: Mapping[str, Mapping[str, object]] = {
    "network.type": _TYPES,
    "network.training_method": {"full": "all"},
    "train.loss_type": _LOSSES,
    "train.xformers": {"true": "xformers"},
    "train.sdp": {"true": "sdpa"},
    "other.use_xformers": {"true": "xformers"},
    "logging.use_wandb": {"true": "wandb"},
}
_OFF: Mapping[str, tuple[object, ...]] = {
    **dict.fromkeys(("train.xformers", "train.sdp", "other.use_xformers", "logging.use_wandb", "sample.neg"), (False,)),
    **dict.fromkeys(("model.quantize", "model.compile"), (False,)),
    **dict.fromkeys(("save.save_every", "sample.sample_every", "network.conv", "network.dropout"), (0, False)),
}
"""Where the value that asks for nothing is not one that our setting takes."""

ARCHITECTURES = (
    "arch", "is_pixart", "is_pixart_sigma", "is_auraflow", "is_v3", "is_flux", "is_lumina2", "is_ssd", "is_vega",
)  # fmt: skip
"""Keys of ai-toolkit's `model` that say which family it is of, besides is_v2 and is_xl."""


def _table(wanted: str) -> Mapping[str, Row]:
    """Read one trainer's part of the table."""
    rows: dict[str, Row] = {}
    text = (Path(__file__).parent / "keys.txt").read_text(encoding="utf-8")
    trainer = why = ""
    for line in text.splitlines():
        if line.startswith("["):
            trainer, why = line.strip("[]"), ""
        elif line.startswith('"'):
            why = line.strip('"')
        elif trainer == wanted and line.startswith(" "):
            rows.update(_lost(word, why) for word in line.split())
        elif trainer == wanted and line:
            name, _, rest = line.partition(" > ")
            rest, _, needs = rest.partition(" ? ")
            to, _, default = rest.partition(" = ")
            rows[name] = Row(
                to, "", _OFF.get(name, ()), scalar(default) if default else None, needs, _WORDS.get(name, {})
            )
    return rows


def _lost(word: str, why: str) -> tuple[str, Row]:
    rest, _, needs = word.partition("?")
    name, equals, values = rest.partition("=")
    off = tuple(ANY if value == "*" else scalar(value) for value in values.split("|")) if equals else ()
    return name, Row("", why, off, None, needs)


LECO = _table("leco")
SLIDER = _table("ai-toolkit")
CONCEPT_SLIDER: Mapping[str, Row] = {
    **SLIDER,
    "train.max_denoising_steps": Row(why=SLIDER["train.min_denoising_steps"].why, off=(999, 1000)),
}
"""There it is a level of noise, not a number of steps."""
