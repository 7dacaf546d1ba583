"""What LoRA files are measured with: the model, the prompts, and how the walks go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from leco_plugin.config.build import Loaded, load
from leco_plugin.config.names import AUTO
from leco_plugin.config.schema import JobConfig, LecoConfig, ModelConfig, PromptPair, TrainConfig
from leco_plugin.contracts import Denoiser, Network
from leco_plugin.engine import setup
from leco_plugin.engine.concepts import watched_prompts
from leco_plugin.engine.measure import Bench, Course, asks
from leco_plugin.errors import ConfigError
from leco_plugin.families.known import settle
from leco_plugin.lora.file import Lora
from leco_plugin.network.loaded import LoadedLora
from leco_plugin.plugins import plugin_manager


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    model: str | None = None
    prompts: Path | None = None
    """A prompt file or a job."""
    untouched: tuple[str, ...] = ()
    device: str | None = None
    seeds: int = Course.samples


@dataclass(frozen=True)
class Subject:
    """What files are measured with."""

    job: JobConfig
    """Names the model and how it is loaded."""
    untouched: tuple[str, ...]
    course: Course

    @property
    def pairs(self) -> tuple[PromptPair, ...]:
        """The prompts."""
        return self.job.pairs

    @contextmanager
    def attached(self, lora: Lora, denoiser: Denoiser) -> Iterator[LoadedLora]:
        """Block in which the file's network is on the model."""
        network = LoadedLora(denoiser.module, lora)
        try:
            yield network
        finally:
            network.detach()

    @property
    def states(self) -> int:
        """How many states a file is measured at."""
        return (sum(map(asks, self.pairs)) + len(dict.fromkeys(self.untouched))) * self.course.states

    def bench(self, denoiser: Denoiser, network: Network, tick: Callable[[int], object] = lambda states: None) -> Bench:
        """A bench for a network on the model; ``tick`` hears of every state."""
        return Bench(denoiser, network, self.pairs, self.untouched, self.course, tick)


def find_subject(loras: Sequence[Lora], asked: Asked) -> Subject:
    """What to measure ``loras`` with, from the command line, else from their metadata.

    Raises ConfigError where prompts or model are not to be known, or the files tell of different ones.
    """
    for lora in loras:
        lora.refuse_unread()
    course = loras[0].course(asked.seeds)
    if asked.prompts is None:
        pairs, preserve = _own_prompts(loras), loras[0].preserve
        job = job_for(pairs, find_model(loras, asked), asked.device)
    else:
        loaded = load(asked.prompts)
        if isinstance(loaded, Loaded):
            job = with_model(loaded.job, asked.model)
            leco = job.leco
            if asked.device is not None:
                job = job.model_copy(update={"device": asked.device})
            pairs, preserve = job.pairs, leco.preserve
            steps, guidance = leco.max_denoising_steps, leco.denoise_guidance_scale
            course = Course(job.train.noise_scheduler, steps, guidance, asked.seeds)
        else:
            pairs, preserve = loaded.pairs, loaded.preserve
            job = job_for(pairs, find_model(loras, asked), asked.device)
    if not any(map(asks, pairs)):
        raise ConfigError("the prompts ask for nothing: every pair keeps its target", fix="name others with --prompts")
    preserve = tuple(prompt for prompt in preserve if prompt != AUTO)
    untouched = asked.untouched or preserve or tuple(watched_prompts(pairs))
    return Subject(job, untouched, course)


def load_model(job: JobConfig) -> Denoiser:
    """The model that a job names, through whatever plugins there are."""
    return setup.load_model(job, plugin_manager().hook)


def with_model(job: JobConfig, model: str | None) -> JobConfig:
    """``job`` on another model, where one is named; with the defaults of its family where it leaves them open."""
    return settle(job if model is None else job.model_copy(update={"model": ModelConfig(name_or_path=model)})).job


def job_for(
    pairs: tuple[PromptPair, ...], model: str, device: str | None = None, leco: LecoConfig | None = None
) -> JobConfig:
    """A job that loads ``model``; in full precision on the CPU, where half of it is slow."""
    chosen = setup.choose_device(device or "auto")
    job = JobConfig(
        name="measure",
        device=str(chosen),
        model=ModelConfig(name_or_path=model),
        train=TrainConfig(dtype="fp32" if chosen.type == "cpu" else "bf16"),
        leco=leco or LecoConfig(),
        pairs=pairs,
    )
    return settle(job).job


def _own_prompts(loras: Sequence[Lora]) -> tuple[PromptPair, ...]:
    """The pairs in the files' metadata; the same in all."""
    for lora in loras:
        if not lora.pairs:
            raise ConfigError(
                f"{lora.path} does not tell what it was trained with", fix="name its prompt file with --prompts"
            )
        if lora.pairs != loras[0].pairs:
            raise ConfigError(
                f"{loras[0].path} and {lora.path} were trained with different prompts",
                fix="name those to measure them by with --prompts",
            )
    return loras[0].pairs


def find_model(loras: Sequence[Lora], asked: Asked) -> str:
    """Name of the model to load for ``loras``; ConfigError where nothing tells, or they tell of several."""
    names = [asked.model] if asked.model else list({lora.model: None for lora in loras})
    if len(names) > 1:
        raise ConfigError("the files are for different models", fix="name one with --model")
    if names[0] is None:
        said = loras[0].metadata.get("ss_sd_model_name")
        what = f"tells no more of its model than the name {said!r}" if said else "does not tell what model it is for"
        raise ConfigError(f"{loras[0].path} {what}", fix="name the model with --model")
    return names[0]
