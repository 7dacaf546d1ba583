"""The mixin on the host's setup of a model: its ``predict`` becomes a LECO step, made of its own predictions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from leco_plugin.hosts.onetrainer.contract import Base
from leco_plugin.hosts.onetrainer.denoiser import Steering


class Steps(Protocol):
    """What the mixin takes losses from."""

    def loss(self) -> Tensor:
        """The loss () of one more step; its backward pass gives the parameters their gradients."""

    def optimizer_step(self, batches: int, learning_rate: float) -> dict[str, float]:
        """What has been measured after so many batches, by name."""


class LecoMixin(Base):  # type: ignore[misc]
    """Stands before the host's setup class for a model type and training method."""

    leco: Steps
    leco_seed: int
    _steering: Steering | None = None

    def setup_model(self, model: Any, config: Any) -> None:
        """The host's, with the LoRA's first weights drawn from the run's seed."""
        torch.manual_seed(self.leco_seed)
        super().setup_model(model, config)

    def predict(self, model: Any, batch: Any, config: Any, train_progress: Any, **options: Any) -> dict[str, Any]:
        """One LECO step; the host's own prediction where that step asks for one."""
        if self._steering is not None:
            own: dict[str, Any] = super().predict(model, batch, config, train_progress, **options)
            return own
        return {"loss": self.leco.loss()}

    def calculate_loss(self, model: Any, batch: Any, data: dict[str, Any], config: Any) -> Any:
        """The step's own."""
        return data["loss"]

    def report_to_tensorboard(self, model: Any, config: Any, scheduler: Any, tensorboard: Any) -> None:
        """The host's figures and the step's; asked for after every optimizer step."""
        super().report_to_tensorboard(model, config, scheduler, tensorboard)
        batches = model.train_progress.global_step
        for name, value in self.leco.optimizer_step(batches + 1, float(scheduler.get_last_lr()[0])).items():
            tensorboard.add_scalar(f"leco/{name}", value, batches)

    @contextmanager
    def steered(self, steering: Steering) -> Iterator[None]:
        """Block in which ``predict`` is the host's own, at the latents and timesteps of ``steering``."""
        assert self._steering is None
        self._steering = steering
        try:
            yield
        finally:
            self._steering = None

    def _create_noise(self, source_tensor: Any, *arguments: Any, **options: Any) -> Any:
        if self._steering is None:
            return super()._create_noise(source_tensor, *arguments, **options)
        return torch.zeros_like(source_tensor)

    def _get_timestep_discrete(self, *arguments: Any, **options: Any) -> Any:
        if self._steering is None:
            return super()._get_timestep_discrete(*arguments, **options)
        return self._steering.timesteps

    def _add_noise_discrete(self, scaled_latent_image: Any, *arguments: Any, **options: Any) -> Any:
        if self._steering is None:
            return super()._add_noise_discrete(scaled_latent_image, *arguments, **options)
        return self._steering.noised(scaled_latent_image)
