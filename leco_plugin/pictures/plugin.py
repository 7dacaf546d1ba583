"""Pictures of a run, as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leco_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from leco_plugin.config.run import RunDescription
    from leco_plugin.config.schema import JobConfig
    from leco_plugin.contracts import Denoiser, Network
    from leco_plugin.pictures.cover import Cover
    from leco_plugin.pictures.samples import SampleStrips


@hookimpl
def leco_pictures(job: JobConfig, denoiser: Denoiser, network: Network) -> SampleStrips | None:
    """What the job's `sample:` section asks for; ModelError where the model cannot draw."""
    # numpy and Pillow are for those who want pictures
    from leco_plugin.pictures.samples import SampleStrips

    return SampleStrips(job, denoiser, network) if job.sample.asked else None


@hookimpl
def leco_observers(run: RunDescription) -> list[Cover]:
    """What puts a picture into the finished file, where pictures are drawn; a file of another host is its own."""
    if run.job is None or not run.job.sample.asked:
        return []
    from leco_plugin.pictures.cover import Cover

    return [Cover(run.job.save)]
