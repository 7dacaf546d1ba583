"""The `sample:` section of a job at work: strips in the folder `samples` while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator

from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Denoiser, Network
from leco_plugin.events import PicturesDrawn
from leco_plugin.pictures.painter import Painter, PictureSettings
from leco_plugin.pictures.strips import check_strips, draw_strip, plan_strips, prompts_of, save_picture

FOLDER = "samples"


class SampleStrips:
    """Draws what a job's `sample:` section asks for with the model in training; its prompts are encoded at once."""

    def __init__(self, job: JobConfig, denoiser: Denoiser, network: Network) -> None:
        self._folder, self._name, self._format = job.output_folder / FOLDER, job.name, job.sample.format
        self._strips = plan_strips(job.sample)
        check_strips(denoiser, self._strips)
        self._painter = Painter(denoiser, network, prompts_of(self._strips), PictureSettings())

    def draw(self, step: int) -> Iterator[PicturesDrawn]:
        """Draw and write all strips as the LoRA is after ``step`` steps; yields each when its file is there."""
        for number, asked in enumerate(self._strips, start=1):
            path = self._folder / f"{self._name}-step{step:08d}-{number:02d}.{self._format}"
            save_picture(path, draw_strip(self._painter, asked))
            yield PicturesDrawn(
                path, step, asked.prompt, asked.seeds, asked.multipliers, number=number, of=len(self._strips)
            )
