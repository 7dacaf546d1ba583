"""What a job that says nothing is trained with, by model family and by what is trained: the one table of it.

``python -m leco_plugin.config.defaults`` prints it as docs/settings.md has it. Commands that take sd-scripts' flags
keep that trainer's own defaults, which are those of the schema.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from leco_plugin.config.families import FLOW_FAMILIES
from leco_plugin.config.kinds import Frozen
from leco_plugin.config.schema import JobConfig, PromptPair

Kind = Literal["slider", "erase", "enhance"]
Options = Mapping[str, Any]
"""Values by dotted option of a job; those of pairs begin with ``pair.``."""
UNET_TITLES: Mapping[str, str] = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "SDXL",
    "tiny": "builtin:tiny",
    "tiny_flow": "builtin:tiny-flow",
    "other_flow": "flow models of other hosts alone",
    "other_diffusion": "PixArt, in OneTrainer",
}
"""Families besides those of flow models that the built-in host knows."""


@dataclass(frozen=True)
class Row:
    """The defaults of one family; where there are two, the first is for an erase, the second for all else."""

    rank: int = 8
    alpha: float = 4.0
    lr: float = 1e-4
    steps: tuple[int, int] = (500, 1000)
    resolution: int = 512
    edit: tuple[float, float] = (1.0, 1.5)
    """Edit strength, ``guidance_scale`` of a pair."""
    walk: int = 40
    """Sampler steps of a whole walk."""
    guidance: float = 3.0
    """Guidance of the walk."""
    pairs_per_step: int = 1

    def options(self, kind: Kind) -> dict[str, Any]:
        """By the names of a job."""
        number = 0 if kind == "erase" else 1
        return {
            "network.linear": self.rank,
            "network.linear_alpha": self.alpha,
            "train.lr": self.lr,
            "train.steps": self.steps[number],
            "leco.max_denoising_steps": self.walk,
            "leco.denoise_guidance_scale": self.guidance,
            "leco.pairs_per_step": self.pairs_per_step,
            "pair.resolution": self.resolution,
            "pair.guidance_scale": self.edit[number],
        }


def _flow(guidance: float = 4.0) -> Row:
    """Rank, alpha and rate as trainers of these families have them, at 512 pixels; walked as pictures are drawn."""
    return Row(rank=16, alpha=16.0, lr=2e-4, walk=30, guidance=guidance)


ROWS: Mapping[str, Row] = {
    "sd1": Row(),
    "sd2": Row(),
    "sdxl": Row(steps=(1000, 1000), resolution=1024, edit=(1.0, 2.0)),
    **{name: _flow() for name in FLOW_FAMILIES},
    # their answers have guidance in them already
    "flux": replace(_flow(), edit=(1.0, 1.0)),
    "flux2": replace(_flow(), edit=(1.0, 1.0)),
    "sd3": _flow(4.5),
    "krea2": _flow(5.0),
    "auraflow": _flow(3.5),
    "tiny": Row(4, 4.0, 1e-3, (300, 200), 64, (0.25, 1.0), 20, 3.0, 4),
    "tiny_flow": Row(4, 4.0, 1e-3, (300, 200), 64, (0.25, 1.0), 20, 3.0, 4),
    "other_flow": _flow(),
    "other_diffusion": Row(resolution=1024),
}
"""Stable Diffusion: sd-scripts' guide (its recommended settings and examples). Flow models: practice of their trainers,
see docs/models.md. The built-in models: measured, ``leco demo`` trains with them."""


@dataclass(frozen=True)
class Defaulted:
    """A job with nothing left open, and which of its values it did not say itself."""

    job: JobConfig
    title: str = ""
    """What the family is called; empty where it is not known."""
    table: Options = field(default_factory=dict)
    """What the family's row says."""
    taken: frozenset[str] = frozenset()
    """Those of ``table`` that the job left open."""


def title_of(family: str) -> str:
    """What people call a family."""
    return FLOW_FAMILIES[family].title if family in FLOW_FAMILIES else UNET_TITLES[family]


def kind_of(pairs: Sequence[PromptPair]) -> Kind:
    """A slider has pairs at both signs of the multiplier; else an erase, where nothing is enhanced."""
    asking = [pair for pair in pairs if not pair.keeps]
    if any(pair.multiplier < 0 for pair in asking):
        return "slider"
    return "enhance" if any(pair.action == "enhance" for pair in asking) else "erase"


def with_defaults(job: JobConfig, family: str | None) -> Defaulted:
    """``job`` with its family's values where it says nothing; as it is where the family is not known.

    What is filled in counts as left open still, so that a model's own files may answer otherwise.
    """
    if family is None:
        return Defaulted(job)
    table = ROWS[family].options(kind_of(job.pairs))
    linear = job.network.linear
    if "linear" in job.network.model_fields_set:
        # the share of alpha in the rank is what counts
        table["network.linear_alpha"] = table["network.linear_alpha"] * linear / table["network.linear"]
    sections: dict[str, dict[str, Any]] = {}
    for dotted, value in table.items():
        section, _, name = dotted.partition(".")
        sections.setdefault(section, {})[name] = value
    of_pairs = sections.pop("pair")
    side = of_pairs["resolution"]
    changed: dict[str, Any] = {name: filled(getattr(job, name), values) for name, values in sections.items()}
    changed["pairs"] = tuple(filled(pair, {**of_pairs, "resolution": (side, side)}) for pair in job.pairs)
    return Defaulted(job.model_copy(update=changed), title_of(family), table, frozenset(_open(job, table)))


def filled(section: Any, values: Mapping[str, Any]) -> Any:
    """``section`` with ``values`` where it leaves them open, which they stay."""
    unsaid = {name: value for name, value in values.items() if name not in section.model_fields_set}
    changed = section.model_copy(update=unsaid)
    changed.model_fields_set.difference_update(unsaid)
    return changed


def _open(job: JobConfig, table: Options) -> Iterator[str]:
    for dotted in table:
        section, _, name = dotted.partition(".")
        holders: Sequence[Frozen] = job.pairs if section == "pair" else (getattr(job, section),)
        if any(name not in holder.model_fields_set for holder in holders):
            yield dotted


def page() -> str:
    """The table in Markdown."""
    head = "| family | rank, alpha | lr | steps | pixels | edit strength | walk: steps, guidance |"
    rows = [f"| {title_of(name)} | {_cells(row)} |" for name, row in ROWS.items()]
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows, ""])


def _cells(row: Row) -> str:
    sizes = f"{row.rank}, {row.alpha:g} | {row.lr:g} | {_either(row.steps)} | {row.resolution}"
    return f"{sizes} | {_either(row.edit)} | {row.walk}, {row.guidance:g}"


def _either(pair: tuple[float, float]) -> str:
    return f"{pair[0]:g}" if pair[0] == pair[1] else f"{pair[0]:g} / {pair[1]:g}"


if __name__ == "__main__":
    sys.stdout.write(page())
