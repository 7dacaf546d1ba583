"""A job file of ai-toolkit as LECO understands it, before anything is loaded. Imports neither the host nor torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leco_plugin.config.build import LoadedSection, build_section
from leco_plugin.config.defaults import Defaulted
from leco_plugin.config.files import Document, read_document
from leco_plugin.config.findings import refusal
from leco_plugin.config.names import SAMPLERS
from leco_plugin.errors import ConfigError, Problem
from leco_plugin.families.known import settle_section
from leco_plugin.hosts.ai_toolkit.architectures import DIFFUSION, FLOWMATCH, check_architecture, family_of

_REFUSED = {
    "train_text_encoder": "remove it: LECO trains the diffusion model alone",
    "snr_gamma": "use min_snr_gamma",
    "learnable_snr_gos": "use min_snr_gamma",
    "diff_output_preservation": "use preserve in the leco section",
    "blank_prompt_preservation": "use preserve in the leco section",
    "do_prior_divergence": "remove it",
    "do_differential_guidance": "use guidance_scale of the prompt pairs",
    "do_guidance_loss": "use guidance_scale of the prompt pairs",
    "do_cfg": "use guidance_scale of the prompt pairs",
    "do_random_cfg": "use guidance_scale of the prompt pairs",
    "dynamic_noise_offset": "use noise_offset",
    "adapter_assist_name_or_path": "remove it",
    "diffusion_feature_extractor_path": "remove it",
    "merge_network_on_save": "remove it: LECO saves the LoRA",
}
"""Options of `train` that are about pictures and captions, and that would do nothing; what to do instead."""
_OLD_NAMES: Mapping[str, str] = {"sdxl": "is_xl", "sd2": "is_v2", "sd3": "is_v3", "flux": "is_flux"}
"""Switches of `model` that mean an architecture."""


def read(files: Sequence[Path]) -> tuple[Defaulted, Sequence[Problem]]:
    """LECO's part of the job in the one file, and what is odd about it; LecoError for what LECO cannot train there."""
    path, *others = files
    if others:
        raise ConfigError("ai-toolkit's jobs are checked one at a time", fix=f"leave out {others[0]}")
    document = read_document(path)
    numbers = leco_processes(document.tree)
    if not numbers:
        raise refusal(path, "this is no job of ai-toolkit with `type: leco`; see docs/ai-toolkit.md")
    process: Any = processes(document.tree)[numbers[0]]
    model, train = (table if isinstance(table, dict) else {} for table in map(process.get, ("model", "train")))
    arch = str(model.get("arch") or next((name for name, on in _OLD_NAMES.items() if model.get(on)), "sd1"))
    # what follows a colon is its web UI's
    arch = {"flex1": "flux"}.get(arch, arch.partition(":")[0])
    sampler = str(train.get("noise_scheduler", "ddpm"))
    section, settled = section_of(document, numbers[0], arch, sampler, fetch=False)
    return settled, section.warnings


def section_of(
    document: Document, number: int, arch: str, sampler: str, *, fetch: bool = True
) -> tuple[LoadedSection, Defaulted]:
    """The `leco` section of the process with this number, with the defaults of its model's family where it is open.

    ``fetch`` brings the small config files of a model that is about to be loaded.
    Raises ConfigError with everything that is wrong in it, and ModelError for a family that LECO does not train.
    """
    process: Any = processes(document.tree)[number]
    check_architecture(arch)
    _check_host_options(process)
    _check_sampler(sampler, arch)
    section = build_section(document, number)
    model = process.get("model") or {}
    settled = settle_section(section, family_of(arch), str(model.get("name_or_path") or ""), fetch=fetch)
    return replace(section, leco=settled.job.leco, pairs=settled.job.pairs), settled


def processes(tree: object) -> Sequence[object]:
    """Those of a job; none where it is not one."""
    config = tree.get("config") if isinstance(tree, dict) else None
    found = config.get("process") if isinstance(config, dict) else None
    return found if isinstance(found, list) else []


def leco_processes(tree: object) -> list[int]:
    """Numbers of those processes of a job that are LECO's."""
    return [
        number
        for number, one in enumerate(processes(tree))
        if isinstance(one, dict) and one.get("type") == "leco" and isinstance(one.get("leco"), dict)
    ]


def _check_host_options(process: Mapping[str, Any]) -> None:
    train = process.get("train") or {}
    if not process.get("network"):
        raise ConfigError("LECO trains a LoRA, and the job has no network", fix="add network: {type: lora, linear: 4}")
    if process.get("datasets"):
        raise ConfigError("LECO trains from prompts alone, and would ignore datasets", fix="remove datasets")
    for name, fix in _REFUSED.items():
        if train.get(name):
            raise ConfigError(f"train.{name} means nothing to LECO", fix=fix)
    if int(train.get("gradient_accumulation_steps") or 1) != 1:
        message = "with train.gradient_accumulation_steps the host drops all gradients but the last"
        raise ConfigError(message, fix="use gradient_accumulation, which averages over so many pairs")


def _check_sampler(name: str, arch: str) -> None:
    """Flow models have one sampler, whatever the job says; some fail in the host unless it says so."""
    if arch in FLOWMATCH and name != "flowmatch":
        message = f"train.noise_scheduler {name!r} is none for {arch}, which is a flow model"
        raise ConfigError(message, fix="noise_scheduler: flowmatch")
    if arch in DIFFUSION and name not in SAMPLERS:
        message = f"train.noise_scheduler {name!r} cannot be the sampler of {arch}'s walks"
        raise ConfigError(message, fix=f"choose one of {', '.join(SAMPLERS)}")
