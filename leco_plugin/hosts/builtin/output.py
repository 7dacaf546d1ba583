"""The LoRA files of a run: their names, formats and metadata, and which of them are cleared away."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from leco_plugin.atomic import write_atomically
from leco_plugin.config.schema import JobConfig, SaveConfig
from leco_plugin.contracts import Denoiser, Network
from leco_plugin.errors import ConfigError, NetworkError, reason
from leco_plugin.events import Warned
from leco_plugin.network.metadata import effect_metadata, is_sidecar, run_metadata, sidecar

Figures = Mapping[str, float | None]
"""What a run has reached so far, by name."""


@dataclass
class Kept:
    """Files or folders of this run by the step that they were written at; those of other runs are never touched."""

    most: int | None
    """How many to keep."""
    last_steps: int | None
    """Keep those of so many steps before the newest."""
    drop: Callable[[Path], None]
    paths: dict[int, Path] = field(default_factory=dict)

    def add(self, step: int, path: Path) -> None:
        """Take in what was written at ``step``, and clear away what is older than it may be."""
        self.paths[step] = path
        for old in sorted(self.paths):
            too_many = self.most is not None and len(self.paths) > self.most
            too_old = self.last_steps is not None and old < step - self.last_steps
            if old < step and (too_many or too_old):
                self.drop(self.paths.pop(old))

    def names(self) -> dict[int, str]:
        """What is kept, for a state; paths would not hold when the folder is moved."""
        return {step: path.name for step, path in self.paths.items()}

    def take_over(self, folder: Path, names: Mapping[int, str], run: str) -> None:
        """Go on with what ``run`` kept in ``folder`` before it was stopped."""
        # a state is a file that somebody may have given the user: it must not name others to be deleted
        own = {step: name for step, name in names.items() if name.startswith(f"{run}-step{step:08d}")}
        self.paths = {step: folder / name for step, name in own.items() if name == Path(name).name}


@dataclass
class Output:
    """Writes the LoRA files of one run."""

    job: JobConfig
    seed: int
    tell: Callable[[Warned], None]

    def __post_init__(self) -> None:
        save = self.job.save
        beside = self.path().with_suffix(".json")
        if save.sidecar and beside.exists() and not is_sidecar(beside):
            raise ConfigError(
                f"{beside} is there, and is not what save.sidecar writes", fix="set another name, or take sidecar out"
            )
        self.kept = Kept(save.max_step_saves_to_keep, save.save_last_n_steps, _unlink)

    def path(self, step: int | None = None) -> Path:
        """Where the final file goes, or that of ``step``."""
        name = self.job.name if step is None else f"{self.job.name}-step{step:08d}"
        return self.job.output_folder / f"{name}.{self.job.save.format}"

    def write(self, path: Path, network: Network, metadata: dict[str, str]) -> None:
        """Write the LoRA as it is to ``path``, in float32 where it needs that."""
        save = self.job.save
        try:
            save_network(network, path, save, metadata)
        except NetworkError as error:
            if save.dtype == "float32":
                raise
            save_network(network, path, save.model_copy(update={"dtype": "float32"}), metadata)
            self.tell(
                Warned(f"{path.name} is written in float32, since {save.dtype} does not hold it: {reason(error)}")
            )

    def write_sidecar(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write what UIs read of the LoRA ``path`` beside it."""
        write_atomically(path.with_suffix(".json"), sidecar(metadata))

    def metadata(self, denoiser: Denoiser, step: int, figures: Mapping[str, float | None]) -> dict[str, str]:
        """What the LoRA says of itself after ``step`` steps; ConfigError where the environment is in its way."""
        job, train = self.job, self.job.train
        metadata = run_metadata(
            job,
            family=denoiser.family,
            prediction_type=denoiser.prediction_type,
            seed=self.seed,
            step=step,
            distilled=denoiser.distilled is not None and denoiser.distilled.steps is not None,
        )
        metadata["ss_loss_type"] = train.loss_type
        if train.optimizer_params:
            metadata["ss_leco_optimizer_params"] = json.dumps(train.optimizer_params)
        if job.save.training_comment:
            metadata["ss_training_comment"] = job.save.training_comment
        return {**metadata, **effect_metadata(figures)}


def save_network(network: Network, path: Path, save: SaveConfig, metadata: dict[str, str]) -> None:
    """Have the network write itself, in the format that ``save`` asks for; atomically.

    ckpt and pt are what torch.save makes of the same tensors: they have no place for metadata.
    """
    if save.format == "safetensors" and not save.no_metadata:
        network.save(path, save.dtype, metadata)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / "lora.safetensors"
        network.save(written, save.dtype, metadata)
        tensors = load_file(written)
    if save.format == "safetensors":
        write_atomically(path, to_bytes(tensors))
        return
    data = io.BytesIO()
    torch.save(tensors, data)
    write_atomically(path, data.getvalue())


def _unlink(path: Path) -> None:
    # one that somebody holds open, as Windows has it, stays
    with suppress(OSError):
        path.unlink()
