"""A job of ai-toolkit in LECO's own terms: the `leco` section, and what of the host's sections LECO goes by."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leco_plugin.config.build import LoadedSection
from leco_plugin.config.files import Document, read_document
from leco_plugin.core.losses import LossType
from leco_plugin.engine.step import StepSettings
from leco_plugin.errors import ConfigError, LecoError
from leco_plugin.hosts.ai_toolkit.job import section_of

_LOSSES: Mapping[str, LossType] = {"mse": "l2", "l2": "l2", "mae": "l1", "l1": "l1", "pseudo_huber": "huber"}


@dataclass(frozen=True)
class HostJob:
    """What LECO needs to know of a job."""

    section: LoadedSection
    step: StepSettings
    sampler: str
    """The sampler of the walk, as the host calls it."""


def read_job(job: Any, number: int, train: Any, model: Any) -> HostJob:
    """Check the process with this number of the host's ``job``; ConfigError with everything that is wrong in it.

    ``train`` and ``model`` are the host's own TrainConfig and ModelConfig.
    """
    section, _ = section_of(_document(job), number, model.arch, train.noise_scheduler)
    if train.loss_type not in _LOSSES:
        raise ConfigError(f"train.loss_type {train.loss_type!r} compares pictures", fix="use mse, mae or pseudo_huber")
    step = StepSettings(
        denoise_guidance_scale=section.leco.denoise_guidance_scale,
        noise_offset=float(train.noise_offset),
        min_snr_gamma=None if train.min_snr_gamma is None else float(train.min_snr_gamma),
        loss_type=_LOSSES[train.loss_type],
        preserve_weight=section.leco.preserve_weight,
    )
    return HostJob(section, step, train.noise_scheduler)


def _document(job: Any) -> Document:
    """The host's tree with the lines of the file that it was read from, where that is found.

    The host hands on only the tree. The file is the one of its command line that holds a job of this name; prompt
    files are relative to its folder, and to the working folder where it is not found.
    """
    there = [path for argument in sys.argv[1:] for path in _places(argument) if path.is_file()]
    read = [(path, _read(path)) for path in there]
    for _, document in read:
        if document and _name(document.tree) in (job.name, "[name]"):
            return replace(document, tree=job.raw_config)
    # such as JSON with comments
    unread = [path for path, document in read if document is None]
    return Document(unread[0] if unread else Path(f"job {job.name}"), job.raw_config)


def _places(argument: str) -> list[Path]:
    """Where the host looks for a job that is named on its command line."""
    endings = ("", ".yaml", ".yml", ".json", ".jsonc")
    return [Path(argument), *(Path("config", f"{argument}{ending}") for ending in endings)]


def _read(path: Path) -> Document | None:
    try:
        return read_document(path)
    except LecoError:
        # the host has read it: its own reader allows more than ours
        return None


def _name(tree: object) -> object:
    config = tree.get("config") if isinstance(tree, dict) else None
    return config.get("name") if isinstance(config, dict) else None
