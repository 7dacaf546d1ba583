"""What a conversion is asked to do, and what it starts from once the source is understood."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leco_converters.report import Report
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
    """absent: TOML becomes an ai-toolkit job, everything else a prompt TOML."""
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
    job: Node | None = None
    """The settings in the shape of an ai-toolkit job with one process; None where the source has none."""
    report: Report = field(default_factory=Report)

    @property
    def process(self) -> Node | None:
        """The process of the job."""
        return self.job.table["config"].table["process"].items[0] if self.job else None

    def setting(self, section: str, name: str) -> Node | None:
        """A setting of the run, such as ``("train", "steps")``; None where the source does not say."""
        process = self.process
        found = process.table[section].table.get(name) if process and section in process.table else None
        return None if found is None or found.left_out else found
