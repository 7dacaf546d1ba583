"""What a job of the host is to LECO's observers, and to a user who watches its beginning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leco_plugin.config.run import RunDescription
from leco_plugin.hosts import description
from leco_plugin.hosts.ai_toolkit.settings import HostJob

_SECTIONS = ("model", "network", "train", "save")
"""Of the host's process, those that say how it trains."""


def describe(job: HostJob, process: Any) -> RunDescription:
    """The run of the host's ``process``; its options are those that the job sets."""
    set_there = {f"{above}.{name}": v for above in _SECTIONS for name, v in (process.config.get(above) or {}).items()}
    return description.describe(
        job.section.pairs,
        job.section.leco,
        set_there,
        name=str(process.job.name),
        # its user may be in another folder than the host
        folder=Path(process.save_root).absolute(),
        host="ai-toolkit",
        model=str(process.model_config.name_or_path_original),
        # the host's web UI shows it in a tab of the job
        page=Path(process.save_root, "plugin.html").absolute(),
    )


def facts(job: HostJob, process: Any, device: object) -> Iterator[tuple[str, str]]:
    """What a user wants to see before waiting."""
    model, train, network = process.model_config, process.train_config, process.network_config
    return description.facts(
        job.section.pairs,
        job.section.leco,
        seed=process.training_seed,
        model=f"{model.name_or_path_original} ({model.arch})",
        device=f"{device}, {train.dtype}",
        network=f"{network.type}, rank {network.linear}, alpha {network.linear_alpha:g}",
        steps=f"{train.steps} at lr {float(train.lr):g} ({train.optimizer}, {train.lr_scheduler})",
    )
