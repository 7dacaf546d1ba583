"""Stands for OneTrainer where its code is not at hand: the same seams, around a real UNet of a few channels.

Each part refuses what the real one would fail at, or do wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from models import SD_SCHEDULE, SmallDenoiser, randomize, small_unet
from safetensors.torch import save_file
from torch import Tensor, nn

RANK, ALPHA = 3, 2.0


class Layer(nn.Module):
    """A LoRA layer that takes over its module's forward while it is on."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.own, self.base = [module], module.forward
        self.down = nn.Linear(module.in_features, RANK, bias=False)
        self.up = nn.Linear(RANK, module.out_features, bias=False)
        self.dropout = nn.Dropout(0.0)
        self.register_buffer("alpha", torch.tensor(ALPHA))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.dropout(self.down(x))) * (self.alpha / RANK)


class Adapter:
    """The layers on a UNet; not a module itself."""

    def __init__(self, unet: nn.Module) -> None:
        names = ("to_q", "to_k", "to_v", "to_out.0")
        self.layers = {n: Layer(m) for n, m in unet.named_modules() if n.endswith(names)}

    def modules(self) -> list[nn.Module]:
        return [module for layer in self.layers.values() for module in layer.modules()]

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for layer in self.layers.values() for parameter in layer.parameters()]

    def switch(self, on: bool) -> None:
        for layer in self.layers.values():
            layer.own[0].forward = layer.forward if on else layer.base


class Kind(str):
    """A model type and what the host says of it."""

    facts: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("is_", "has_")):
            return lambda: name in self.facts
        raise AttributeError(name)

    def model_parts(self) -> tuple[str, ...]:
        return ("unet", "text_encoder", "vae")

    def denoising_model_part(self) -> str:
        return "unet"


def kind(name: str, *facts: str) -> Kind:
    found = Kind(name)
    found.facts = facts
    return found


@dataclass
class Model:
    """What the host has loaded."""

    unet: nn.Module = field(default_factory=small_unet)
    flow: bool = False
    ragged: bool = False
    """Prompts come out in their own length."""
    frames: bool = False
    """Latents have a dimension of one frame."""
    patches: bool = False
    """Noise is added to 2 x 2 latents as one."""
    on_device: set[str] = field(default_factory=lambda: {"unet"})
    asked: list[int] = field(default_factory=list)
    """Samples of every call of the UNet."""

    def __post_init__(self) -> None:
        self.noise_scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0) if self.flow else DDIMScheduler(**SD_SCHEDULE)
        channels = {"z_dim" if self.frames else "latent_channels": 4}
        self.vae = SimpleNamespace(config={**channels, "block_out_channels": (1, 1, 1, 1)})
        if self.patches:
            self.patchify_latents = nn.PixelUnshuffle(2)
        self.train_progress = SimpleNamespace(epoch=0, epoch_step=0, global_step=0)
        self.lora: Adapter | None = None
        self.timing = lambda height, width, steps: {}

    def adapters(self) -> list[Adapter]:
        return [self.lora] if self.lora else []

    def encode_text(
        self,
        *,
        train_device: torch.device,
        batch_size: int,
        text: str | None = None,
        tokens: Tensor | None = None,
        layer_skip: int = 0,
    ) -> Any:
        assert "text_encoder" in self.on_device, "the text encoder is on the wrong device"
        assert text is not None, "there are no captions"
        assert layer_skip == 2, "captions are encoded with the layer that the config says"
        encoded = SmallDenoiser(self.unet).encode([text]).rows([0]).text
        return encoded[:, : 1 + len(text) % 3] if self.ragged else encoded


class Setup:
    """The host's setup of that model."""

    def __init__(self, train_device: str, temp_device: str, debug_mode: bool) -> None:
        self.train_device = torch.device(train_device)

    def setup_model(self, model: Model, config: Any) -> None:
        model.lora = Adapter(model.unet)
        model.lora.switch(True)
        model.parameters = model.lora
        model.unet.train()

    def prepare_text_caching(self, model: Model, config: Any) -> None:
        model.on_device = {"text_encoder"}

    def setup_train_device(self, model: Model, config: Any) -> None:
        model.on_device = {"unet"}

    @contextmanager
    def prior_model(self, model: Model, config: Any) -> Iterator[None]:
        for adapter in model.adapters():
            adapter.switch(False)
        try:
            yield
        finally:
            for adapter in model.adapters():
                adapter.switch(True)

    def predict(self, model: Model, batch: Any, config: Any, train_progress: Any) -> dict[str, Any]:
        latent_image = batch["latent_image"]
        text = model.encode_text(
            train_device=self.train_device, batch_size=latent_image.shape[0], tokens=batch["tokens"], layer_skip=2
        )
        assert model.on_device == {"unet"}, "the UNet is on the wrong device"
        generator = torch.Generator().manual_seed(train_progress.global_step)
        timestep = self._get_timestep_discrete(1000, False, generator, latent_image.shape[0], config)
        image = model.patchify_latents(latent_image) if model.patches else latent_image
        noise = self._create_noise(image, config, generator)
        noised = self._add_noise_discrete(image, noise, timestep, None)
        if model.flow:
            noised, _sigma = noised
        else:
            # fails at timesteps that are no whole numbers
            model.noise_scheduler.get_velocity(image, noise, timestep)
        assert noised.shape == image.shape
        model.asked.append(len(noised))
        assert len(text) == len(noised), "one text for each sample"
        x = noised.squeeze(2) if model.frames else nn.PixelShuffle(2)(noised) if model.patches else noised
        predicted = model.unet(x, timestep, text).sample
        return {"predicted": predicted.unsqueeze(2) if model.frames else predicted, "timestep": timestep}

    def calculate_loss(self, model: Model, batch: Any, data: dict[str, Any], config: Any) -> Tensor:
        raise AssertionError("the host's loss is for pictures")

    def report_to_tensorboard(self, model: Model, config: Any, scheduler: Any, tensorboard: Any) -> None:
        tensorboard.add_scalar("lr/unet", 1.0, model.train_progress.global_step)

    def _create_noise(self, source_tensor: Tensor, config: Any, generator: torch.Generator) -> Tensor:
        return torch.randn(source_tensor.shape, generator=generator)

    def _get_timestep_discrete(self, total: int, deterministic: bool, generator: Any, size: int, config: Any) -> Tensor:
        return torch.randint(0, total, (size,), generator=generator)

    def _add_noise_discrete(self, image: Tensor, noise: Tensor, timestep: Tensor, betas: Any) -> Tensor:
        return image + noise


@dataclass
class Sampler:
    """Sets its timesteps on a copy of the model's scheduler, and then draws."""

    model: Model

    def sample(self, sample_config: Any, destination: str, image_format: Any = None) -> None:
        if self.model.flow:
            self.model.encode_text("a prompt", "another", of="captions")
            steps = sample_config.diffusion_steps
            options = self.model.timing(sample_config.height, sample_config.width, steps)
            copy.deepcopy(self.model.noise_scheduler).set_timesteps(steps, device="cpu", **options)
        Path(destination + image_format.extension()).write_bytes(b"a picture")


@dataclass
class Saver:
    """Writes the LoRA; a backup is a folder with the optimizer, too."""

    optimizer: torch.optim.Optimizer

    def save(self, model: Model, model_type: Any, output_model_format: Any, destination: str, dtype: Any) -> None:
        assert all(layer.alpha == ALPHA for layer in model.lora.layers.values()), "a LoRA at another strength is saved"
        lora = [p.detach().clone() for p in model.lora.parameters()]
        if str(output_model_format) != "INTERNAL":
            save_file({str(n): p for n, p in enumerate(lora)}, destination, {"modelspec.title": "its own"})
            return
        Path(destination).mkdir(parents=True)
        state = {"optimizer": self.optimizer.state_dict(), "progress": vars(model.train_progress).copy()}
        torch.save({"lora": lora, **state}, Path(destination) / "state.pt")


class Commands:
    """Where the host is told to stop."""

    stopped = False

    def stop(self) -> None:
        self.stopped = True

    def get_stop_command(self) -> bool:
        return self.stopped


class Trainer:
    """The host's order of things: set up, count, back up before a step, one backward pass after it."""

    def __init__(self, config: Any, callbacks: Any, commands: Commands) -> None:
        self.config, self.commands = config, commands
        self.train_device, self.temp_device = torch.device("cpu"), torch.device("cpu")
        self.losses: list[float] = []
        self.one_step_trained = False
        self.scalars: dict[str, float] = {}

    def create_model_saver(self) -> Saver:
        return Saver(self.optimizer)

    def create_model_sampler(self, model: Model) -> Any:
        return Sampler(model)

    def end(self) -> None:
        if not self.one_step_trained:
            return
        self.save("KOHYA_LORA", self.config.output_model_destination)

    def start(self) -> None:
        self.setup, self.model = self.create_model_setup(), Model()
        self.setup.setup_model(self.model, self.config)
        randomize(self.model.lora.parameters(), std=0.1)
        backup = self.config.get_last_backup_path() if self.config.continue_last_backup else None
        self.optimizer = torch.optim.AdamW(self.model.lora.parameters(), lr=1e-2)
        if backup:
            self._resume(torch.load(Path(backup) / "state.pt"))
        self.loader = self.create_data_loader(self.model, self.setup, self.model.train_progress)
        self.saver = self.model_saver = self.create_model_saver()
        self.sampler = self.create_model_sampler(self.model)

    def train(self) -> None:
        progress = self.model.train_progress
        for epoch in range(progress.epoch, self.config.epochs):
            progress.epoch = epoch
            if self.commands.stopped:
                return
            self.loader.get_data_set().start_next_epoch()
            for batch in self.loader.get_data_loader():
                assert batch["concept_type"] == ["STANDARD"] * self.config.batch_size
                if progress.global_step == self.config.backup_at:
                    self.save("INTERNAL", f"{self.config.workspace}/backup")
                data = self.setup.predict(self.model, batch, self.config, progress)
                loss = self.setup.calculate_loss(self.model, batch, data, self.config)
                (loss / self.config.gradient_accumulation_steps).backward()
                self.losses.append(loss.item())
                if (progress.global_step + 1) % self.config.gradient_accumulation_steps == 0:
                    self.optimizer.step()
                    schedule = SimpleNamespace(get_last_lr=lambda: [1e-2])
                    self.setup.report_to_tensorboard(self.model, self.config, schedule, self)
                    self.optimizer.zero_grad()
                    self.one_step_trained = True
                progress.epoch_step, progress.global_step = progress.epoch_step + 1, progress.global_step + 1
                if self.commands.stopped:
                    return
            progress.epoch_step = 0

    def save(self, form: str, destination: str) -> None:
        self.saver.save(self.model, "kind", form, destination, None)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name] = value

    def _resume(self, state: dict[str, Any]) -> None:
        for parameter, stored in zip(self.model.lora.parameters(), state["lora"], strict=True):
            parameter.data.copy_(stored)
        self.optimizer.load_state_dict(state["optimizer"])
        vars(self.model.train_progress).update(state["progress"])
