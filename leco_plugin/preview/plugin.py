"""Pictures of a run, and its history, as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leco_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leco_plugin.config.schema import JobConfig
    from leco_plugin.contracts import Denoiser, Network, Observer
    from leco_plugin.preview.sampling import SampleStrips


@hookimpl
def leco_pictures(job: JobConfig, denoiser: Denoiser, network: Network) -> SampleStrips | None:
    """What the job's `sample:` section asks for; ModelError where the model cannot draw."""
    # numpy and Pillow are for those who want pictures
    from leco_plugin.preview.sampling import SampleStrips

    return SampleStrips(job, denoiser, network) if job.sample.asked else None


@hookimpl
def leco_observers(job: JobConfig) -> Iterable[Observer]:
    """The history, which `leco report` reads."""
    from leco_plugin.preview.history import HistoryWriter

    return [HistoryWriter(job)]
