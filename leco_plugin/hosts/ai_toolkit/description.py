"""What a job of the host is to LECO's observers, and to a user who watches its beginning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leco_plugin.config.run import Option, RunDescription, short_name
from leco_plugin.hosts.ai_toolkit.settings import HostJob

_SECTIONS = ("model", "network", "train", "save")
"""Of the host's process, those that say how it trains."""


def describe(job: HostJob, process: Any) -> RunDescription:
    """The run of the host's ``process``; its options are those that the job sets."""
    return RunDescription(
        name=str(process.job.name),
        folder=Path(process.save_root),
        host="ai-toolkit",
        model=str(process.model_config.name_or_path_original),
        pairs=job.section.pairs,
        preserve=job.section.leco.preserve,
        options=_options(job, process.config),
        own_console=True,
        # the host's web UI shows it in a tab of the job
        page=Path(process.save_root, "plugin.html"),
    )


def facts(job: HostJob, process: Any, device: object) -> Iterator[tuple[str, str]]:
    """What a user wants to see before waiting, as the built-in host says it."""
    pairs, leco, train, network = job.section.pairs, job.section.leco, process.train_config, process.network_config
    targets = dict.fromkeys(repr(pair.target) for pair in pairs if not pair.keeps)
    yield "model", f"{process.model_config.name_or_path_original} ({process.model_config.arch})"
    yield "device", f"{device}, {train.dtype}"
    yield "targets", ", ".join(targets)
    yield "pairs", str(len(pairs))
    yield "network", f"{network.type}, rank {network.linear}, alpha {network.linear_alpha:g}"
    yield "steps", f"{train.steps} at lr {float(train.lr):g} ({train.optimizer}, {train.lr_scheduler})"
    if leco.preserve:
        yield "preserved", ", ".join(map(repr, leco.preserve))
    yield "walk", f"{leco.walk}, {leco.max_denoising_steps} steps, guidance {leco.denoise_guidance_scale:g}"
    yield "seed", str(process.training_seed)


def _options(job: HostJob, config: Mapping[str, Any]) -> dict[str, Option]:
    sections: dict[str, Mapping[str, Any]] = {name: config.get(name) or {} for name in _SECTIONS}
    sections["leco"] = job.section.leco.model_dump(mode="json")
    flat: dict[str, Option] = {"pairs": len(job.section.pairs)}
    for section, values in sections.items():
        for name, value in values.items():
            plain = value if isinstance(value, (bool, int, float)) else str(value)
            # a path says more about the machine than a tracker on the network needs to know
            flat[f"{section}.{name}"] = short_name(plain) if isinstance(plain, str) and _is_path(plain) else plain
    return flat


def _is_path(text: str) -> bool:
    return Path(text).is_absolute() or text.startswith((".", "~")) or "\\" in text
