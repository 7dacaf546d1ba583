"""What a run is, in whatever host: what observers, history and report go by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from leco_plugin.config.kinds import Frozen
from leco_plugin.config.schema import JobConfig, LoggingConfig, PromptPair

Option = bool | int | float | str


class RunDescription(Frozen):
    """A run as its host knows it; nothing in it is a default that the host does not go by."""

    name: str
    folder: Annotated[Path, Field(strict=False)]
    """Where its files go."""
    host: str
    model: str
    """As the user named it."""
    pairs: tuple[PromptPair, ...]
    preserve: tuple[str, ...] = ()
    options: dict[str, Option]
    """What the run was started with, by dotted names in the host's own words; no paths."""
    logging: LoggingConfig = LoggingConfig()
    """Trackers besides those that the host has itself."""
    own_console: bool = False
    """Whether the host draws bars of its own on the console."""
    page: Annotated[Path | None, Field(strict=False)] = None
    """Where the report is written while it goes on, for a host that shows it."""
    job: JobConfig | None = None
    """All of it, where the built-in host runs it."""


def describe_job(job: JobConfig) -> RunDescription:
    """The run of a job in the built-in host."""
    return RunDescription(
        name=job.name,
        folder=job.output_folder,
        host="builtin",
        model=job.model.name_or_path,
        pairs=job.pairs,
        preserve=job.leco.preserve,
        options=_options(job),
        logging=job.logging,
        job=job,
    )


def _options(job: JobConfig) -> dict[str, Option]:
    left_out = {"pairs", "training_folder", "output_dir", "logging", "resume", "meta"}
    tree = job.model_dump(mode="json", exclude=left_out)
    flat: dict[str, Option] = {"pairs": len(job.pairs)}
    for section, values in tree.items():
        for name, value in (values if isinstance(values, dict) else {"": values}).items():
            dotted = f"{section}.{name}" if name else section
            flat[dotted] = value if isinstance(value, (bool, int, float, str)) else str(value)
    # a path says more about the machine than a tracker on the network needs to know
    flat["model.name_or_path"] = short_name(job.model.name_or_path)
    return flat


def short_name(name_or_path: str) -> str:
    """The last part of a path."""
    return name_or_path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
