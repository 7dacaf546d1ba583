"""What a conversion is asked to do, and what it starts from once the source is understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leco_converters.foreign import Row
from leco_converters.report import Report
from leco_converters.settings import Settings
from leco_converters.tree import Node, Source

Target = Literal["toml", "ai-toolkit", "leco-job"]
Origin = Literal["ai-toolkit", "leco-config", "leco-job", "prompts"]


@dataclass(frozen=True)
class Request:
    """One conversion."""

    source: Path
    target: Path | None = None
    """Where the result goes; absent: beside the source, with another ending."""
    to: Target | None = None
    """absent: TOML becomes a job of ours, everything else a prompt TOML."""
    job: Path | bool = False
    """Write a job file beside a prompt TOML; True: beside it, as ``..._job.yaml``."""
    flags: bool = False
    """Make the command line of sd-scripts too."""
    strict: bool = False
    """Write nothing where anything is lost."""
    force: bool = False
    """Replace files that are there; the source never is."""
    model: str = ""
    """Name of the base model, where the source does not say."""


@dataclass
class Plan:
    """What the source says: its prompts, and the settings of its run."""

    origin: Origin
    source: Source
    prompts: Node
    """A prompt tree as a prompt TOML holds it."""
    prompt_source: Source
    """The file that the prompts stand in."""
    report: Report
    settings: Settings = field(default_factory=Settings)
    rows: Mapping[str, Row] = field(default_factory=dict)
    """The table of the source's settings, where they are another trainer's."""
