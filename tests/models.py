"""Models whose answers are known, and real ones of a few channels; everything that several tests need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Generator, Tensor, nn

from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.contracts import PredictionType
from leco_plugin.core.walk import guided
from leco_plugin.engine.concepts import encode_concepts
from leco_plugin.engine.rows import Model, Samplers
from leco_plugin.engine.step import LecoStep, StepSettings
from leco_plugin.events import Event
from leco_plugin.families.sd import SDDenoiser
from leco_plugin.families.text import TensorTable

CPU = torch.device("cpu")
SD_SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "prediction_type": "epsilon",
}
"""The noise schedule of Stable Diffusion 1.x."""


def seeded(seed: int) -> Generator:
    """A generator of its own with this seed."""
    return Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers that depend on ``seed`` alone."""
    return torch.randn(shape, generator=seeded(seed))


# --- a model whose answers are known -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """What the model was asked in one call, a number for each row."""

    values: list[float]
    """The prompts' values."""
    multipliers: list[float]
    """The LoRA's strength."""
    timesteps: list[float]
    latents: Tensor
    sizes: Tensor
    gradient: bool
    """Whether the call was part of a graph."""


@dataclass(frozen=True)
class LineTable:
    """Prompts are numbers; the empty prompt is 0."""

    values: tuple[float, ...]

    def rows(self, prompts: Sequence[int]) -> Tensor:
        """(R,) the values of the prompts."""
        return torch.tensor([self.values[prompt] for prompt in prompts])


@dataclass
class LineNetwork:
    """One LoRA weight, which the model adds to its prediction."""

    lora: float
    takes_rows: bool = True
    strength: float | list[float] = 1.0
    saved: list[tuple[Path, str, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weight = nn.Parameter(torch.tensor(self.lora))

    def parameters(self) -> list[nn.Parameter]:
        return [self.weight]

    @contextmanager
    def multiplier(self, value: float | Sequence[float]) -> Iterator[None]:
        assert self.takes_rows or isinstance(value, (int, float))
        before = self.strength
        self.strength = float(value) if isinstance(value, (int, float)) else list(value)
        try:
            yield
        finally:
            self.strength = before

    def strengths(self, rows: int) -> list[float]:
        """The strength of each of so many rows."""
        return [self.strength] * rows if isinstance(self.strength, float) else self.strength

    def save(self, path: Path, dtype: str, metadata: Mapping[str, str]) -> None:
        self.saved.append((path, dtype, dict(metadata)))


class LineSampler:
    """N steps at timesteps 10 N, ..., 20, 10; a step adds the prediction, and a walk remembers its steps."""

    def __init__(self, steps: int, sigma: float = 1.0, scale: float = 1.0) -> None:
        self.timesteps = torch.arange(steps, 0, -1) * 10
        self.init_noise_sigma = sigma
        self.scale = scale
        self.taken: list[int] = []

    def fresh(self) -> LineSampler:
        return LineSampler(len(self.timesteps), self.init_noise_sigma, self.scale)

    def model_input(self, latents: Tensor, index: int) -> Tensor:
        return latents * self.scale

    def step(self, prediction: Tensor, index: int, latents: Tensor, generator: Generator) -> Tensor:
        due = self.taken[-1] + 1 if self.taken else index
        assert index == due, "steps are taken in order, each by the sampler of its own walk"
        self.taken.append(index)
        return latents + prediction


class LineModel:
    """Predicts the value of the prompt, plus ``lora * multiplier``, in every latent pixel."""

    family = "line"
    device = CPU
    uses_size_conditioning = True
    distilled = None
    guide = staticmethod(guided)

    def __init__(
        self, lora: float = 0.0, *, takes_rows: bool = True, steps: int = 4, prediction_type: PredictionType = "epsilon"
    ) -> None:
        self.network = LineNetwork(lora, takes_rows)
        self.line_sampler = LineSampler(steps)
        self.prediction_type: PredictionType = prediction_type
        self.module = nn.Identity()
        self.calls: list[Call] = []
        self.snr_by_timestep: dict[int, float] = {}

    def encode(self, prompts: Sequence[str]) -> LineTable:
        return LineTable(tuple(float(prompt or 0) for prompt in prompts))

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        return []

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 4, height // 8, width // 8

    def predict(self, latents: Tensor, timesteps: Tensor, text: Any, sizes: Tensor) -> Tensor:
        strengths = self.network.strengths(len(latents))
        self.calls.append(
            Call(text.tolist(), strengths, timesteps.tolist(), latents, sizes, gradient=torch.is_grad_enabled())
        )
        values = text + self.network.weight * torch.tensor(strengths)
        return values[:, None, None, None].expand(latents.shape)

    def sampler(self, name: str, steps: int, shape: tuple[int, int, int]) -> LineSampler:
        return LineSampler(steps, self.line_sampler.init_noise_sigma, self.line_sampler.scale)

    def snr(self, timesteps: Tensor) -> Tensor:
        return torch.tensor([self.snr_by_timestep.get(int(timestep), 1.0) for timestep in timesteps])


def pair(
    target: float = 2, positive: float = 5, unconditional: float = 0, neutral: float = 0, **more: Any
) -> PromptPair:
    """A pair for LineModel: the prompts are their values; the resolution is that of an 8 x 8 latent."""
    prompts = {"target": target, "positive": positive, "unconditional": unconditional, "neutral": neutral}
    texts = {name: f"{value:g}" if value else "" for name, value in prompts.items()}
    return PromptPair(**{"resolution": (64, 64), **texts, **more})


def line_step(model: LineModel, *pairs: PromptPair, **settings: Any) -> LecoStep:
    """The LECO step over LineModel and ``pairs``."""
    return step_of(model, model.network, pairs, len(model.line_sampler.timesteps), **settings)


def step_of(
    denoiser: Any,
    network: Any,
    pairs: Sequence[PromptPair],
    steps: int,
    preserve: Sequence[str] = (),
    **settings: Any,
) -> LecoStep:
    """The LECO step over any model, along walks of so many steps."""
    concepts = encode_concepts(pairs, denoiser, preserve)
    model = Model(denoiser, network, concepts.table)
    return LecoStep(
        model, concepts.items, Samplers(denoiser, "ddim", steps), StepSettings(**settings), concepts.untouched
    )


# --- real models of a few channels -------------------------------------------------------------------------------


def small_unet(seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """A UNet with attention on the way down, in the middle and on the way up, and random weights."""
    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**{**config, **changes})
    return unet.requires_grad_(False)


class SmallDenoiser(SDDenoiser):
    """Stable Diffusion over a small UNet whose text embeddings are random, and depend on the prompt alone."""

    def __init__(self, unet: UNet2DConditionModel, schedule: Mapping[str, Any] = SD_SCHEDULE) -> None:
        super().__init__(Path("there is no such folder"), unet, schedule, CPU)

    def encode(self, prompts: Sequence[str]) -> TensorTable:
        """(P, 5, width) random numbers."""
        width = self.module.config.cross_attention_dim
        text = [randn(5, width, seed=sum(map(ord, prompt))) for prompt in prompts]
        return TensorTable(torch.stack(text).to(self.module.dtype))


def randomize(parameters: Iterable[Tensor], seed: int = 7, std: float = 0.3) -> None:
    """Give every weight a random value: a new LoRA does nothing, and would hide what is wrong."""
    generator = seeded(seed)
    for parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(std * noise)


# --- runs --------------------------------------------------------------------------------------------------------


def tiny_job(folder: Path, **changes: Any) -> JobConfig:
    """A job of three steps on the built-in model; ``changes`` replaces sections, or values in them."""
    sections: dict[str, Any] = {
        "name": "tiny",
        "training_folder": folder,
        "device": "cpu",
        "training_seed": 5,
        "model": {"name_or_path": "builtin:tiny"},
        "network": {"linear": 4, "linear_alpha": 2.0},
        "train": {"steps": 3, "lr": 1e-3},
        "leco": {"max_denoising_steps": 4},
        "pairs": [{"target": "red", "positive": "red", "resolution": (64, 64)}],
    }
    for name, value in changes.items():
        merges = isinstance(value, dict) and isinstance(sections.get(name), dict)
        sections[name] = {**sections[name], **value} if merges else value
    return JobConfig.model_validate({**sections, "pairs": tuple(sections["pairs"])})


class Recorder:
    """An observer that keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]
