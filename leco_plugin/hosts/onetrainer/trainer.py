"""The mixin on the host's trainer: our setup, our steps in the place of its pictures, our state in its backups."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from leco_plugin.engine.concepts import distinct_prompts
from leco_plugin.engine.stop import Stop
from leco_plugin.errors import ModelError
from leco_plugin.events import PicturesDrawn
from leco_plugin.hosts.onetrainer import run
from leco_plugin.hosts.onetrainer.contract import Base, Host
from leco_plugin.hosts.onetrainer.denoiser import HostDenoiser
from leco_plugin.hosts.onetrainer.description import facts
from leco_plugin.hosts.onetrainer.setup import LecoMixin
from leco_plugin.hosts.reported import Reported
from leco_plugin.network.lora_file import add_metadata
from leco_plugin.network.metadata import effect_metadata, leco_metadata


class TrainerMixin(Base):  # type: ignore[misc]
    """Stands before the host's trainer class; the first four attributes are set before it starts."""

    leco_host: Host
    leco_plan: run.Plan
    leco_reported: Reported
    leco_signal: Stop
    leco_ends = False
    """Whether the file that is written now is the last one."""
    leco_interrupted = False
    """Whether the user has ended the run before its last step."""
    one_step_trained: bool
    _learnt = False

    def start(self) -> None:
        """The host's; ModelError for a model that it cannot load."""
        try:
            super().start()
        except Exception as error:
            # what the host raises itself; it has printed why
            if type(error) is Exception:
                raise ModelError(f"OneTrainer: {error}", fix="see what it says above") from None
            raise

    def train(self) -> None:
        """The host's; what a run that was broken off leaves follows the host's rule."""
        try:
            super().train()
        except BaseException as error:
            self.leco_interrupted = isinstance(error, KeyboardInterrupt)
            keeps = self.leco_interrupted and self.config.backup_before_save
            self._learnt = self.one_step_trained = self.one_step_trained and keeps
            raise
        self._learnt = True
        # of a run that had reached its goal the file is written again
        self.one_step_trained = self.one_step_trained or self._leco.enough
        self.leco_interrupted = self.commands.get_stop_command() and not self._leco.enough

    def end(self) -> None:
        """The host's, which writes the last file and ends its TensorBoard; then say how it went."""
        self.leco_ends = True
        super().end()
        if self._learnt:
            done = self.model.train_progress.global_step // self.leco_plan.accumulation
            path = self.model_saver.last or Path(self.config.output_model_destination)
            self.leco_reported.end(path, done, interrupted=self.leco_interrupted)

    def create_model_setup(self) -> Any:
        """The host's setup class for the model type, with our mixin before it."""
        own = self.leco_host.create.get_model_setup_class(self.config.model_type, self.config.training_method)
        mixed = type(f"Leco{own.__name__}", (LecoMixin, own), {})
        setup: Any = mixed(self.train_device, self.temp_device, self.config.debug_mode)
        setup.leco_seed = self.leco_plan.seed
        return setup

    def create_data_loader(
        self, model: Any, model_setup: Any, train_progress: Any, is_validation: bool = False
    ) -> StepLoader:
        """Encode the prompts, begin the walks or go on with those of a backup, and count steps."""
        scaled = self.leco_host.grad_scaling(self.config.train_dtype, model.parameters.parameters())
        plan, draw = self.leco_plan, partial(self._draw, model)
        denoiser = HostDenoiser(model_setup, model, self.config, plan.resolution, draw)
        self._leco = run.begin(plan, denoiser, self.leco_reported, self.commands, self.leco_signal, scaled=scaled)
        model_setup.leco = self._leco
        backup = self.config.get_last_backup_path() if self.config.continue_last_backup else None
        if backup:
            self._leco.restore(Path(backup))
        done = train_progress.global_step // self.leco_plan.accumulation
        self.leco_reported.start(facts(self._leco.plan, self.config), done)
        self.leco_reported.warn(self._unread())
        return StepLoader(train_progress, self.leco_plan.epoch_steps, self.config.batch_size)

    def create_model_saver(self) -> Any:
        """The host's, which our state is written after."""
        return StateSaver(super().create_model_saver(), self._leco, lambda: self.leco_ends)

    def create_model_sampler(self, model: Any) -> Any:
        """The host's, whose pictures are reported."""
        return ReportedSampler(super().create_model_sampler(model), self._leco, lambda: model.train_progress)

    def _draw(self, model: Any, height: int, width: int, steps: int) -> None:
        asked = self.leco_host.sample.default_values(self.config.model_type)
        # the host rounds to whole 64s
        asked.height, asked.width, asked.diffusion_steps, asked.cfg_scale = max(64, height), max(64, width), steps, 1.0
        asked.from_train_config(self.config)
        super().create_model_sampler(model).sample(asked, os.devnull)

    def _unread(self) -> Iterator[str]:
        denoiser, plan = self._leco.denoiser, self._leco.plan
        for prompt in denoiser.truncated([*distinct_prompts(plan.pairs), *plan.leco.preserve]):
            unseen = denoiser.cut(prompt)
            yield f"the model reads only the beginning of this prompt: {prompt!r}; not {unseen!r}"


@dataclass(frozen=True)
class StepLoader:
    """Stands for the host's data set and its loader: one empty batch per step."""

    progress: Any
    """The host's train progress, which says where in an epoch a continued run is."""
    steps: int
    batch_size: int

    def get_data_set(self) -> StepLoader:
        """Itself."""
        return self

    def get_data_loader(self) -> StepLoader:
        """Itself."""
        return self

    def start_next_epoch(self) -> None:
        """Nothing is cached."""

    def approximate_length(self) -> int:
        """Steps of an epoch."""
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _ in range(self.progress.epoch_step, self.steps):
            yield {"concept_type": ["STANDARD"] * self.batch_size}


@dataclass
class StateSaver:
    """The host's saver; a backup gets our state, too, and a file says what was asked of it."""

    own: Any
    leco: run.Run
    final: Callable[[], bool]
    last: Path | None = None
    """The LoRA that was written last."""

    def save(
        self, model: Any, model_type: Any, output_model_format: Any, output_model_destination: str, dtype: Any
    ) -> None:
        """Save as the host does; what a backup fails with is the host's to report."""
        self.own.save(model, model_type, output_model_format, output_model_destination, dtype)
        path, step = Path(output_model_destination), model.train_progress.global_step
        if str(output_model_format) == "INTERNAL":
            self.leco.kept(path).write(step, scale=self.leco.gradients.scale, enough=self.leco.enough)
        elif path.is_file():
            plan = self.leco.plan
            described = leco_metadata(plan.pairs, plan.leco, plan.sampler)
            figures = effect_metadata(self.leco.progress.figures)
            add_metadata(path, {**described, **figures, "ss_seed": str(plan.seed), "ss_steps": str(step)})
            self.last = path.absolute()
            self.leco.reported.saved(self.last, step // plan.accumulation, final=self.final())


@dataclass(frozen=True)
class ReportedSampler:
    """The host's sampler; a picture that it draws while training is reported, and takes no time of a step."""

    own: Any
    leco: run.Run
    progress: Callable[[], Any]

    def sample(self, sample_config: Any, destination: str, image_format: Any, **options: Any) -> None:
        """Draw one picture as the host does."""
        reported = self.leco.reported
        with reported.meter.paused():
            self.own.sample(sample_config=sample_config, destination=destination, image_format=image_format, **options)
        path = Path(destination + image_format.extension()).absolute()
        step, seed = self.progress().global_step // self.leco.plan.accumulation, int(sample_config.seed)
        if path.is_file():
            reported.drew(PicturesDrawn(path, step, sample_config.prompt, (seed,), (1.0,), 1, 1, framed=False))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)
