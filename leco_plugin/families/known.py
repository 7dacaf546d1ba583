"""Which family a job's model is of, by its files or its name alone, and the job with that family's defaults.

Without torch: asked before anything is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from leco_plugin.config.build import LoadedSection
from leco_plugin.config.defaults import Defaulted, with_defaults
from leco_plugin.config.families import FLOW_FAMILIES, Distilled, distilled
from leco_plugin.config.flow_rules import fitted
from leco_plugin.config.names import SUFFIXES
from leco_plugin.config.recognise import names_in
from leco_plugin.config.schema import JobConfig, ModelConfig
from leco_plugin.errors import ConfigError, Problem
from leco_plugin.families.flow.facts import FlowFacts, family_of_names, find_flow, read_config, transformer_alone
from leco_plugin.tiny import BUILTIN

Family = Literal["sd1", "sd2", "sdxl"]
"""Those whose denoiser is a UNet."""
ENCODERS: Mapping[Family, tuple[str, ...]] = {
    "sd1": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}
"""How the names of the text encoders' weights begin in a single file."""
_CALLED = (
    (r"xl|pony|illustrious|noob", "sdxl"),
    (r"stable-diffusion-2|sd-?2", "sd2"),
    (r"stable-diffusion-v?1|sd-?v?1", "sd1"),
    (r"z-?image", "z_image"),
    (r"flux\.?2.*klein", "flux2_klein"),
    (r"flux\.?2", "flux2"),
    (r"flux", "flux"),
    (r"qwen-?image", "qwen_image"),
    (r"krea-?2", "krea2"),
    (r"chroma", "chroma"),
    (r"stable-diffusion-3|sd-?3", "sd3"),
    (r"lumina", "lumina2"),
    (r"aura-?flow", "auraflow"),
)
"""Families by what is in the name of a model of the hub that is not on this disk."""


@dataclass(frozen=True)
class Settled(Defaulted):
    """A job as its model is trained: with the defaults of its family, and of its files where it is a flow model."""

    family: str | None = None
    flow: FlowFacts | None = None


def settle(job: JobConfig, *, fetch: bool = False, told: str | None = None) -> Settled:
    """``job`` with what its model's family has where it says nothing.

    ``fetch`` brings the small config files of a model of the hub, which is about to be downloaded anyway. ``told``:
    the family by what a host says; the model's own files tell more exactly.
    """
    if fetch:
        _fetch(job.model)
    flow = find_flow(job.model)
    family = flow.family.name if flow else told or _family(job.model, None)
    found = with_defaults(job, family)
    settled = found.job
    if flow or told in FLOW_FAMILIES:
        settled = fitted(settled, flow.distilled if flow else _by_name(told or "", job.model.name_or_path))
    return Settled(settled, found.title, found.table, found.taken, family, flow)


def check_named(model: str) -> None:
    """ConfigError where ``model`` is neither built in, nor a file or folder here, nor spelt like a model of the hub."""
    hub = re.fullmatch(r"\w[\w.-]*/[\w.-]+", model) and Path(model).suffix.lower() not in SUFFIXES
    # what a plugin loads may have a name of any kind before a colon; one letter is a disk
    of_plugin = re.match(r"(?!builtin:)\w\w+:", model)
    if not (model in BUILTIN or hub or of_plugin or os.path.exists(os.path.expanduser(model))):
        fix = f"name a folder or file that is there, a hub id such as owner/name, or {' or '.join(BUILTIN)}"
        raise ConfigError(f"there is no model {model!r} here", fix=fix)


def settle_section(section: LoadedSection, told: str, model: str, *, fetch: bool = False) -> Settled:
    """A host's ``section`` as that host trains it: what is LECO's own of the settled job is meant, and nothing else."""
    name = ModelConfig(name_or_path=model or "model")
    return settle(JobConfig(name="job", model=name, leco=section.leco, pairs=section.pairs), fetch=fetch, told=told)


def _by_name(family: str, name: str) -> Distilled | None:
    """As ``find_flow`` finds it, where there is nothing but the name; FLUX models that are not distilled are rare."""
    schnell = "schnell" in name.lower()
    index = {"is_distilled": re.search("klein-?[49]b", name.lower()) is not None}
    return distilled(FLOW_FAMILIES[family], index, {"guidance_embeds": not schnell}, {}, name)


def lacking_parts(model: ModelConfig) -> list[Problem]:
    """What a model in one file needs besides, where it is a flow model's transformer alone."""
    path = Path(os.path.expanduser(model.name_or_path))
    if model.extras is None and path.suffix.lower() in SUFFIXES and os.path.isfile(path):
        with suppress(OSError, ValueError):
            family = family_of_names(names_in(path).splitlines())
            return [transformer_alone(path, family)] if family else []
    return []


def find_family(model: ModelConfig) -> str | None:
    """A name of ``config.defaults.ROWS``; None where neither files, nor what the job says, nor the name tell it."""
    return _family(model, find_flow(model))


def _family(model: ModelConfig, flow: FlowFacts | None) -> str | None:
    name = model.name_or_path
    if name in BUILTIN:
        return name.removeprefix("builtin:").replace("-", "_")
    if flow:
        return flow.family.name
    # os.path answers for any name, also for one that no file can have
    path = Path(os.path.expanduser(name))
    if os.path.isfile(path):
        return _in_file(path)
    unet = read_config(name, "unet/config.json")
    if unet:
        return family_of_unet(unet, read_config(name, "text_encoder/config.json"))
    if model.is_xl or model.is_v2:
        return "sdxl" if model.is_xl else "sd2"
    return next((family for pattern, family in _CALLED if re.search(pattern, name.lower())), None)


def family_of_unet(unet: Mapping[str, object], encoder: Mapping[str, object]) -> Family:
    """The family of a model with a UNet and a first text encoder of these configs."""
    if unet.get("addition_embed_type") is not None:
        return "sdxl"
    # other widths have models made for tests: OpenCLIP's encoders have another activation than OpenAI's
    told: dict[object, Family] = {768: "sd1", 1024: "sd2"}
    return told.get(unet.get("cross_attention_dim")) or ("sd2" if encoder.get("hidden_act") == "gelu" else "sd1")


def _in_file(path: Path) -> str | None:
    with suppress(OSError, ValueError):
        found = names_in(path)
        return next((name for name, parts in ENCODERS.items() if all(part in found for part in parts)), None)
    return None


def _fetch(model: ModelConfig) -> None:
    """Have the configs of a hub model in the cache; what cannot be fetched fails where the model itself is loaded."""
    for name in filter(None, (model.name_or_path, model.extras)):
        if name in BUILTIN or os.path.exists(os.path.expanduser(name)):
            continue
        from huggingface_hub import snapshot_download

        with suppress(Exception):
            snapshot_download(name, allow_patterns=["model_index.json", "*/config.json", "scheduler/*.json"])
