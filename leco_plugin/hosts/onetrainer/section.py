"""What a run trains, in LECO's own terms: prompts and options, and what the host's config leaves to LECO.

Imports neither the host nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leco_plugin.config.build import LoadedPrompts, LoadedSection, join_section, load_prompts
from leco_plugin.config.defaults import Defaulted
from leco_plugin.config.files import read_document
from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.errors import ConfigError, Problem, Where
from leco_plugin.families.known import settle_section
from leco_plugin.hosts.onetrainer.first_config import TYPES

_FAMILIES: Mapping[str, str] = {
    # the first where two families have one type
    **{name: family for family, kind in [*TYPES.items()][::-1] for name in (kind.name, *kind.called.values())},
    "STABLE_DIFFUSION_20": "sd2",
    **dict.fromkeys(("PIXART_ALPHA", "PIXART_SIGMA"), "other_diffusion"),
}
"""Names in ``config.defaults.ROWS`` by model type; the others are flow models that this host alone has."""


def read(files: Sequence[Path]) -> tuple[Defaulted, Sequence[Problem]]:
    """LECO's part of a run by its files: presets and config in the host's order, then prompts; and what is odd."""
    *configs, prompts = files
    if not configs:
        raise ConfigError(
            "a config of OneTrainer and a prompt file are needed", fix="name the config before the prompts"
        )
    said: dict[str, Any] = {}
    for path in configs:
        said |= read_config_file(path)
    loaded = load_prompts(prompts)
    return settled_run(loaded, LecoConfig(), said, fetch=False), loaded.warnings


def settled_run(loaded: LoadedPrompts, leco: LecoConfig, config: Mapping[str, Any], *, fetch: bool = True) -> Defaulted:
    """Prompts and options with the defaults of the family of ``config``'s model where they say nothing.

    The size of pictures is the config's own where that is one number. ``fetch`` brings the small config files of a
    model that is about to be loaded. ConfigError where what is preserved is to change.
    """
    section = join_section(loaded, leco)
    family = _FAMILIES.get(str(config.get("model_type") or "STABLE_DIFFUSION_15"), "other_flow")
    pairs = _sized(section.pairs, str(config.get("resolution") or ""))
    sized: LoadedSection = replace(section, pairs=pairs)
    return settle_section(sized, family, str(config.get("base_model_name") or ""), fetch=fetch)


def read_config_file(path: Path) -> dict[str, Any]:
    """What a JSON file of the host holds; ConfigError where that is no config."""
    tree = read_document(path).tree
    if not isinstance(tree, dict):
        raise ConfigError(Problem(Where(path), "this is no config of OneTrainer", "export one from its UI"))
    return tree


def _sized(pairs: Sequence[PromptPair], resolution: str) -> tuple[PromptPair, ...]:
    side = int(resolution) if resolution.strip().isdecimal() else 0
    if side == 0 or side % 64:
        return tuple(pairs)
    said = {"resolution": (side, side)}
    return tuple(pair if "resolution" in pair.model_fields_set else pair.model_copy(update=said) for pair in pairs)
