"""`type: leco` in ai-toolkit, which imports this: `extensions_built_in` and `toolkit` are its own packages."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from extensions_built_in.sd_trainer.DiffusionTrainer import DiffusionTrainer
from toolkit.lora_special import LoRANetwork
from toolkit.prompt_utils import concat_prompt_embeds
from torch import Generator, Tensor

from leco_plugin.engine.assemble import Training, assemble
from leco_plugin.engine.progress import Progress
from leco_plugin.engine.same_run import describe_parts
from leco_plugin.engine.stop import Stop, stop_on_signal
from leco_plugin.errors import TrainingError
from leco_plugin.hosts.ai_toolkit import resume
from leco_plugin.hosts.ai_toolkit.architectures import ROWS
from leco_plugin.hosts.ai_toolkit.description import describe, facts
from leco_plugin.hosts.ai_toolkit.metadata import file_metadata
from leco_plugin.hosts.ai_toolkit.model import HostDenoiser
from leco_plugin.hosts.ai_toolkit.network import HostNetwork, takes_rows
from leco_plugin.hosts.ai_toolkit.samples import drawn
from leco_plugin.hosts.ai_toolkit.settings import read_job
from leco_plugin.hosts.kept import Kept
from leco_plugin.hosts.reported import Reported
from leco_plugin.network.metadata import effect_metadata


class LecoProcess(DiffusionTrainer):  # type: ignore[misc]
    """A training run; loading, optimizer, saving, sampling, resuming and the UI are the host's."""

    training_seed: int | None

    def __init__(self, process_id: int, job: Any, config: Any, **options: Any) -> None:
        # with cache_text_embeddings the host goes through datasets unasked
        config.setdefault("datasets", [])
        sample = config.get("sample") or {}
        if sample.get("prompts") and not sample.get("samples"):
            # an empty list is for its pages, and would draw nothing
            sample.pop("samples", None)
        super().__init__(process_id, job, config, **options)
        # the host asks its datasets whether texts are cached, and LECO has none: the encoders are let go of
        self.is_caching_text_embeddings = bool(self.train_config.cache_text_embeddings)
        # prompts are encoded once, and nothing of a step needs the encoders
        self.train_device_state_preset["text_encoder"]["device"] = "cpu"
        self._training: Training | None = None
        self._stop, self._signals = Stop(), ExitStack()
        self._saved: int | None = None
        """Steps that the newest file has; None before the first step."""

    def hook_before_model_load(self) -> None:
        """Check the job before anything large is loaded."""
        self._leco = read_job(self.job, self.process_id, self.train_config, self.model_config)
        self._reported = Reported(describe(self._leco, self))
        self._reported.warn(map(str, self._leco.section.warnings))
        self._layers_found = list(LoRANetwork.UNET_TARGET_REPLACE_MODULE)
        super().hook_before_model_load()

    def hook_before_train_loop(self) -> None:
        """Encode the prompts while the text encoder is there, and begin the walks."""
        # `conv` adds to this list of the host for good, and would change the next job of the same program
        LoRANetwork.UNET_TARGET_REPLACE_MODULE[:] = self._layers_found
        self._training = self._assemble()
        self._progress = Progress(self._leco.section.pairs)
        self._enough: resume.Enough | None = None
        """Steps done and their last loss, once the goal is reached."""
        self._done = self._updates = self.step_num
        if self.is_ui_trainer:
            self.update_status("running", "Checking the model")
        super().hook_before_train_loop()
        self._check_model()
        self._reported.prepare(self._progress, self.train_config.steps, self.sd.device_torch)
        self._reported.start(facts(self._found, self, self.sd.device_torch), self._done)
        if self._done:
            self._enough, problem = resume.restore(self._kept(), self._updates)
            self._reported.warn([problem] if problem else [])
            self._done = self._enough[0] if self._enough else self._done
        self._saved = self._updates
        self._stop = self._signals.enter_context(stop_on_signal())

    def _check_model(self) -> None:
        """What only a model that is loaded can tell."""
        assert self._training
        section, exact = self._found.section, self.train_config.dtype in ("fp32", "float32", "float")
        sizes, steps = [pair.resolution for pair in section.pairs], section.leco.max_denoising_steps
        # the host has put the transformer aside
        self.sd.set_device_state(self.train_device_state_preset)
        with self._host_network.multiplier(0.0):
            remarks = self._denoiser.check(self._training.model.table, self._leco.sampler, steps, sizes, exact=exact)
        # the VAE has shown how large latents are, and is parked again
        self.sd.set_device_state(self.train_device_state_preset)
        self._host_network.takes_rows = self._host_network.takes_rows and not self._denoiser.separate
        self._reported.warn(remarks)

    def _kept(self) -> Kept:
        job, folder = self._leco, self._folder / resume.FOLDER
        assert self._training
        described = describe_parts(
            job.section.pairs, job.section.leco, {**vars(job.step), "noise_scheduler": job.sampler}
        )
        return Kept(folder, described, self._training.walks, self._reported.meter, self.sd.device_torch)

    def _assemble(self) -> Training:
        job, bypass = self._leco, self.train_config.bypass_guidance_embedding
        self._denoiser = HostDenoiser(self.sd, self._join, bypass_guidance_embedding=bypass, encoding=self._encoding)
        rows = takes_rows(self.network_config, arch_takes_rows=self.model_config.arch in ROWS)
        self._host_network = HostNetwork(self.network, takes_rows=rows)
        pairs = job.section.pairs
        leco = self._denoiser.with_neighbours(job.section.leco, pairs, job.sampler, self._host_network)
        self._found = replace(job, section=replace(job.section, leco=leco))
        """The job with what `preserve: auto` stands for in its place."""
        return assemble(
            pairs,
            leco,
            job.step,
            denoiser=self._denoiser,
            network=self._host_network,
            sampler=job.sampler,
            generator=self._generator(),
        )

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        """Block in which the text encoders have the device."""
        if self.is_caching_text_embeddings:
            # as the host does: there may be no room for both
            self.sd.unet.to("cpu")
        yield
        self.sd.set_device_state(self.train_device_state_preset)

    def train_single_accumulation(self, batch: Any) -> Tensor:
        """The loss () of one LECO step, after its backward pass; there is no ``batch``."""
        if self._enough:
            # without gradients the host's optimizer leaves the weights alone, and the last steps pass at once
            return torch.tensor(self._enough[1])
        assert self._training
        result = self._training.step.run(self._training.walks, self._backward)
        # the host reads every loss, too
        if not math.isfinite(float(result.loss)):
            raise TrainingError(
                f"the loss is {float(result.loss)} at step {self.step_num + 1}; the files saved before are kept",
                fix="try a lower lr, dtype bf16 or fp32 instead of fp16, or a smaller guidance_scale",
            )
        self._reported.step(result)
        return result.loss

    def hook_train_loop(self, batch: Any) -> Any:
        """One optimizer step of the host, reported."""
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        losses = super().hook_train_loop(batch)
        self._updates = self.step_num + 1
        if not self._enough:
            self._done = self.step_num + 1
            event = self._reported.optimizer_step(self._done, rate)
            if event:
                self.additional_logs.update({f"leco/{name}": value for name, value in event.measured.items()})
                self._stop_at_goal(losses["loss"])
        return losses

    def _stop_at_goal(self, loss: float) -> None:
        stop_at = self._leco.section.leco.stop_at
        if stop_at is not None and self._progress.reached(stop_at):
            self.print(f"LECO: after {self._done} steps {self._progress.means}; no more is trained")
            self._enough = self._done, loss

    def _backward(self, loss: Tensor) -> None:
        # the host adds up what one optimizer step accumulates; its mean is meant
        self.accelerator.backward(loss / self.train_config.gradient_accumulation)

    def end_step_hook(self) -> None:
        """End the run where a signal asks for it; what the UI asks for is the host's."""
        if self._stop.asked:
            self._keep()
            raise KeyboardInterrupt
        super().end_step_hook()

    def maybe_stop(self) -> None:
        """End the run where the UI asks for it, also between two pictures of a sample."""
        if self._saved is not None and (self.should_stop() or self.should_return_to_queue()):
            self._keep()
        super().maybe_stop()

    def _keep(self) -> None:
        """Save a run that is stopped; the host would drop what it learned since the last file."""
        if self._saved != self._updates:
            # past the UI's own check, which would end the run before the file is written
            super(DiffusionTrainer, self).save(self.step_num)
        self._reported.end(self._newest(), self._done, interrupted=True)

    def update_training_metadata(self) -> None:
        """Say in the file what LECO did, and what the host leaves out about the network."""
        super().update_training_metadata()
        figures = effect_metadata(self._progress.figures)
        self.add_meta({**file_metadata(self._found, self, self._done), **figures})

    def post_save_hook(self, save_path: str) -> None:
        """Write LECO's state beside the host's, and report the file."""
        super().post_save_hook(save_path)
        self._kept().write(self._updates, enough=self._enough)
        self._saved = self._updates
        self._reported.saved(self._newest(), self._done, final=self._updates >= self.train_config.steps)

    def get_training_info(self) -> Any:
        """With the steps that are done: the host saves within a step, and would do that one again."""
        return OrderedDict({**super().get_training_info(), "step": self._updates})

    def get_latest_save_path(self, name: Any = None, post: str = "", include_pretrained_lora: bool = True) -> Any:
        """The newest LoRA; the host would take whatever begins with the job's name, such as the history."""
        found = resume.newest(self._folder, str(name or self.job.name))
        if found:
            return str(found)
        given = self.network_config.pretrained_lora_path
        return given if include_pretrained_lora and given and Path(given).exists() else None

    def sample(self, step: int | None = None, is_first: bool = False) -> None:
        """The host's samples, reported."""
        self._asked_samples: list[Any] = []
        with self._reported.meter.paused():
            super().sample(step, is_first)
        for event in drawn(self._asked_samples, self._done):
            self._reported.drew(event)

    def post_process_generate_image_config_list(self, generate_image_config_list: list[Any]) -> list[Any]:
        """What the host is about to draw, kept for the report of it."""
        self._asked_samples = super().post_process_generate_image_config_list(generate_image_config_list)
        return self._asked_samples

    @property
    def _folder(self) -> Path:
        """Absolute: the host's working folder is not the one that its user is in."""
        return Path(self.save_root).absolute()

    def _newest(self) -> Path:
        return resume.newest(self._folder, self.job.name) or self._folder

    def done_hook(self) -> None:
        """Tell a user how it ended; let go of the model, for the next job of the same program."""
        self._training = None
        self._signals.close()
        self._reported.end(self._newest(), self._done, interrupted=False)
        super().done_hook()

    def on_error(self, error: Exception) -> None:
        """Let go of the signals and the model."""
        self._training = None
        self._signals.close()
        super().on_error(error)

    def _join(self, embeds: list[Any]) -> Any:
        return concat_prompt_embeds(embeds, padding_side=self.sd.te_padding_side)

    def _generator(self) -> Generator:
        """Everything that LECO draws; a resumed run goes on with other numbers than it began with."""
        if self.training_seed is None:
            self.training_seed = torch.seed() % 2**32
        return Generator().manual_seed((self.training_seed + self.step_num * 2**32) % 2**63)
