"""`type: leco` in ai-toolkit, which imports this: `extensions_built_in` and `toolkit` are its own packages."""

from __future__ import annotations

import math
from typing import Any

import torch
from extensions_built_in.sd_trainer.DiffusionTrainer import DiffusionTrainer
from toolkit.lora_special import LoRANetwork
from toolkit.prompt_utils import concat_prompt_embeds
from torch import Generator, Tensor

from leco_plugin.engine.assemble import Training, assemble
from leco_plugin.engine.measure import Course
from leco_plugin.engine.neighbours import preserved
from leco_plugin.engine.progress import Progress
from leco_plugin.errors import TrainingError
from leco_plugin.hosts.ai_toolkit.architectures import ROWS
from leco_plugin.hosts.ai_toolkit.metadata import file_metadata
from leco_plugin.hosts.ai_toolkit.model import HostDenoiser
from leco_plugin.hosts.ai_toolkit.network import HostNetwork, takes_rows
from leco_plugin.hosts.ai_toolkit.settings import read_job
from leco_plugin.network.metadata import effect_metadata


class LecoProcess(DiffusionTrainer):  # type: ignore[misc]
    """A training run; loading, optimizer, saving, sampling, resuming and the UI are the host's."""

    training_seed: int | None

    def __init__(self, process_id: int, job: Any, config: Any, **options: Any) -> None:
        # with cache_text_embeddings the host goes through datasets unasked
        config.setdefault("datasets", [])
        super().__init__(process_id, job, config, **options)

    def hook_before_model_load(self) -> None:
        """Check the job before anything large is loaded."""
        self._leco = read_job(self.job, self.process_id, self.train_config, self.model_config)
        for warning in self._leco.section.warnings:
            self.print(f"LECO: warning: {warning}")
        self._layers_found = list(LoRANetwork.UNET_TARGET_REPLACE_MODULE)
        super().hook_before_model_load()

    def hook_before_train_loop(self) -> None:
        """Encode the prompts while the text encoder is there, and begin the walks."""
        # `conv` adds to this list of the host for good, and would change the next job of the same program
        LoRANetwork.UNET_TARGET_REPLACE_MODULE[:] = self._layers_found
        self._training: Training | None = self._assemble()
        self._progress = Progress(self._leco.section.pairs)
        self._enough: tuple[int, Tensor] | None = None
        """Steps done and their last loss, once the goal is reached."""
        super().hook_before_train_loop()

    def _assemble(self) -> Training:
        section, train = self._leco.section, self.train_config
        denoiser = HostDenoiser(self.sd, self._join, bypass_guidance_embedding=train.bypass_guidance_embedding)
        rows = takes_rows(self.network_config, arch_takes_rows=self.model_config.arch in ROWS)
        return assemble(
            section.pairs,
            preserved(section.leco, denoiser, section.pairs, Course()),
            self._leco.step,
            denoiser=denoiser,
            network=HostNetwork(self.network, takes_rows=rows),
            sampler=self._leco.sampler,
            generator=self._generator(),
        )

    def train_single_accumulation(self, batch: Any) -> Tensor:
        """The loss () of one LECO step, after its backward pass; there is no ``batch``."""
        if self._enough:
            # without gradients the host's optimizer leaves the weights alone, and the last steps pass at once
            return self._enough[1].clone()
        assert self._training
        result = self._training.step.run(self._training.walks, self._backward)
        # the host reads every loss, too
        if not math.isfinite(float(result.loss)):
            raise TrainingError(
                f"the loss is {float(result.loss)} at step {self.step_num + 1}; the files saved before are kept",
                fix="try a lower lr, dtype bf16 or fp32 instead of fp16, or a smaller guidance_scale",
            )
        self._progress.add(result.measured)
        self._report(result.loss)
        return result.loss

    def _report(self, loss: Tensor) -> None:
        figures, stop_at = self._progress.figures, self._leco.section.leco.stop_at
        self.additional_logs.update({f"leco/{name}": value for name, value in figures.items() if value is not None})
        if stop_at is not None and self._progress.reached(stop_at):
            effect = figures["effect"]
            self.print(f"LECO: effect {effect:.2f} reached after {self.step_num + 1} steps; no more is trained")
            self._enough = self.step_num + 1, loss

    def _backward(self, loss: Tensor) -> None:
        # the host adds up what one optimizer step accumulates; its mean is meant
        self.accelerator.backward(loss / self.train_config.gradient_accumulation)

    def update_training_metadata(self) -> None:
        """Say in the file what LECO did, and what the host leaves out about the network."""
        super().update_training_metadata()
        steps = self._enough[0] if self._enough else self.step_num
        self.add_meta({**file_metadata(self._leco, self, steps), **effect_metadata(self._progress.figures)})

    def done_hook(self) -> None:
        """Tell a user whose LoRA does next to nothing; let go of the model, for the next job of the same program."""
        self._training = None
        if self._progress.means:
            self.print(f"LECO: {self._progress.means}")
        for complaint in self._progress.complaints():
            self.print(f"LECO: warning: {complaint}")
        super().done_hook()

    def _join(self, embeds: list[Any]) -> Any:
        return concat_prompt_embeds(embeds, padding_side=self.sd.te_padding_side)

    def _generator(self) -> Generator:
        """Everything that LECO draws; a resumed run goes on with other numbers than it began with."""
        if self.training_seed is None:
            self.training_seed = torch.seed() % 2**32
        self.print(f"LECO: training_seed {self.training_seed}")
        return Generator().manual_seed((self.training_seed + self.step_num * 2**32) % 2**63)
