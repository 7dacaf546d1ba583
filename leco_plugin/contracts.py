"""The seams between LECO and a host: what a model, a network, a sampler and an observer have to offer.

Shapes, everywhere: a *row* is one sample of a model batch. R rows, B samples of one walk, C latent channels,
(h, w) in latent pixels, N sampler steps of a whole walk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor, device, nn

    from leco_plugin.config.defaults import Defaulted
    from leco_plugin.config.families import Distilled
    from leco_plugin.config.run import RunDescription
    from leco_plugin.config.schema import JobConfig
    from leco_plugin.errors import Problem
    from leco_plugin.events import Event, PicturesDrawn

PredictionType = Literal["epsilon", "v_prediction", "flow"]


class TextRows(Protocol):
    """Text conditioning of a batch, in whatever form the model takes it. Only its own Denoiser looks inside."""


class TextTable(Protocol):
    """Every distinct prompt of a run, encoded once."""

    def rows(self, prompts: Sequence[int]) -> TextRows:
        """Conditioning of a batch whose row i has the prompt number ``prompts[i]``."""


class Sampler(Protocol):
    """The sampler of one walk, with its history; N steps from noise to picture.

    One that is also ``core.state.Stateful`` lets runs of the pool be resumed.
    """

    @property
    def timesteps(self) -> Tensor:
        """(N,) training timesteps, noisiest first; after k steps the latents are at ``timesteps[k]``."""

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the latents at the start."""

    def fresh(self) -> Sampler:
        """The same sampler without history, for another walk."""

    def model_input(self, latents: Tensor, index: int) -> Tensor:
        """What the model is shown of ``latents`` (B, C, h, w) after ``index`` steps."""

    def step(self, prediction: Tensor, index: int, latents: Tensor, generator: Generator) -> Tensor:
        """Latents (B, C, h, w) after one more step; ``generator`` is for samplers that add noise."""


class Denoiser(Protocol):
    """A frozen model behind one call; packing, added conditions and precision stay inside."""

    @property
    def prediction_type(self) -> PredictionType:
        """What ``predict`` returns."""

    @property
    def family(self) -> str:
        """Short name of the model family, such as ``sd1``."""

    @property
    def module(self) -> nn.Module:
        """The network that a LoRA is attached to."""

    @property
    def device(self) -> device:
        """Where latents and predictions live."""

    @property
    def uses_size_conditioning(self) -> bool:
        """Whether ``sizes`` means anything to this model."""

    def encode(self, prompts: Sequence[str]) -> TextTable:
        """Encode every prompt once; the text encoders are freed afterwards, and loaded again for another table."""

    def truncated(self, prompts: Sequence[str]) -> Sequence[str]:
        """The prompts of which the text encoder saw only the beginning; known after ``encode``."""

    def cut(self, prompt: str) -> str:
        """The end of a truncated prompt that the text encoder did not see."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture of ``height`` x ``width`` pixels; ModelError where the size does not fit."""

    def predict(self, latents: Tensor, timesteps: Tensor, text: TextRows, sizes: Tensor) -> Tensor:
        """Prediction (R, C, h, w) for ``latents`` (R, C, h, w) at ``timesteps`` (R,).

        ``sizes`` is (R, 6): original height and width, crop top and left, target height and width, in pixels.
        """

    def sampler(self, name: str, steps: int, shape: tuple[int, int, int]) -> Sampler:
        """The sampler called ``name`` with ``steps`` steps, as this model was trained to be sampled.

        ``shape`` is that of the latents, (C, h, w): the schedules of flow models depend on it.
        """

    def guide(self, conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        """Guided prediction (B, C, h, w) in float32, as the model's own sampling does it; ``core.walk.guided``."""

    @property
    def distilled(self) -> Distilled | None:
        """How a distilled model is sampled, where a job does not say; None for the others."""

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio (R,) at ``timesteps`` (R,)."""


class Network(Protocol):
    """The LoRA in training."""

    @property
    def takes_rows(self) -> bool:
        """Whether one batch may have another multiplier in every row."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """What the optimizer trains, in a fixed order."""

    def multiplier(self, value: float | Sequence[float]) -> AbstractContextManager[None]:
        """Block in which the LoRA has this strength (one number, or one per row) and that restores what it found.

        At 0 the model is exactly the base model. Backward belongs inside: checkpointing recomputes with what is set.
        """

    def save(self, path: Path, dtype: str, metadata: Mapping[str, str]) -> None:
        """Write the LoRA to ``path`` atomically; what describes the network itself is added to ``metadata``."""


class Observer(Protocol):
    """Draws, logs or stores what a run reports; must not change it."""

    def notify(self, event: Event) -> None:
        """Called for every event, in order. What it raises is reported, and the observer dropped."""


class Pictures(Protocol):
    """Draws what a LoRA in training does."""

    def draw(self, step: int) -> Iterator[PicturesDrawn]:
        """Draw with the network as it is after ``step`` steps, at whatever strengths; yields each file when written.

        Leaves multipliers and torch's random generators as they were. What it raises is reported, and the run goes on
        without pictures.
        """


class Hooks(Protocol):
    """The hooks that hosts and processes call; see hookspecs.py for their rules."""

    def leco_process(self, *, type: str, job: JobConfig, hooks: Hooks) -> Process | None:
        """The training process of this type."""

    def leco_load_model(self, *, job: JobConfig, device: device) -> Denoiser | None:
        """The model that the job names."""

    def leco_create_network(self, *, job: JobConfig, denoiser: Denoiser, seed: int) -> Network | None:
        """The network that the job asks for, attached."""

    def leco_pictures(self, *, job: JobConfig, denoiser: Denoiser, network: Network) -> Pictures | None:
        """What draws pictures in the run."""

    def leco_observers(self, *, run: RunDescription) -> list[Iterable[Observer]]:
        """The observers of every plugin."""


class Process(Protocol):
    """A training run, made from a job and run once."""

    def run(self) -> RunResult:
        """Train; LecoError for what the user can put right."""


class Host(Protocol):
    """A trainer that LECO runs in; what it can do besides having a name is in ``HostActions``."""

    @property
    def name(self) -> str:
        """How users choose it."""

    @property
    def about(self) -> str:
        """One line for the list of hosts."""


class HostActions(Protocol):
    """What a host may offer; a host has those of these methods that mean something to it.

    Arguments are those that follow the host's name on the command line. LecoError for what the user can put right.
    """

    def run(self, job: JobConfig) -> RunResult:
        """`leco train --host NAME`: run a job of the process `leco` from start to end."""

    def install(self, path: Path) -> Iterable[str]:
        """`leco host install NAME PATH`: make LECO known to the host in this folder; gives lines to print."""

    def check(self, path: Path) -> Iterable[str]:
        """`leco host check NAME PATH`: say which version it is, and what is missing."""

    def remove(self, path: Path) -> Iterable[str]:
        """`leco host remove NAME PATH`: take LECO out of it again."""

    def read(self, files: Sequence[Path]) -> tuple[Defaulted, Sequence[Problem]]:
        """`leco check --host NAME FILE...`: LECO's part of a run by its files, which begins with the host's defaults.

        Gives it with nothing left open, in a job of which all else is the host's own business, and what is odd.
        """

    def start(self, arguments: Sequence[str]) -> int:
        """`leco host run NAME ...`: train in it; gives the exit code."""

    def ui(self, arguments: Sequence[str]) -> int:
        """`leco host ui NAME ...`: open its window; gives the exit code when that is closed."""

    def submit(self, arguments: Sequence[str]) -> int:
        """`leco host submit NAME ...`: put a job into its queue; gives the exit code."""


class RunResult(Protocol):
    """How a run ended."""

    @property
    def path(self) -> Path:
        """The LoRA."""

    @property
    def steps(self) -> int:
        """Optimizer steps done."""

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped it before its end."""


__all__ = [
    "Denoiser",
    "Hooks",
    "Host",
    "HostActions",
    "Network",
    "Observer",
    "Pictures",
    "PredictionType",
    "Process",
    "RunResult",
    "Sampler",
    "TextRows",
    "TextTable",
]
