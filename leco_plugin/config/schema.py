"""Every option once: its type, default, range, unit and meaning.

The key names are those of an ai-toolkit job, so that one job file runs in every host.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from leco_plugin.config.blame import refuse
from leco_plugin.config.kinds import (
    Action,
    BatchSize,
    DType,
    FileDType,
    FileName,
    FilePath,
    Finite,
    Frozen,
    Layers,
    Preserved,
    Rank,
    Side,
    Texts,
    Whole,
)
from leco_plugin.config.optimizers import fits_fp16
from leco_plugin.config.sample import SampleConfig
from leco_plugin.config.train import TrainConfig as TrainConfig

_DROPOUTS = ("dropout", "rank_dropout", "module_dropout")


DORA = "DoRA is not trained here: ComfyUI, Forge, diffusers and others misread such files without a word"


def _no_dora(value: object) -> object:
    if value == "dora":
        raise refuse(DORA, "set network.type to lora")
    return value


class PromptPair(Frozen):
    """One training pair, fully resolved: what `target` shall mean from now on.

    Erase: ``neutral - guidance_scale * (positive - unconditional)``; enhance: plus instead of minus.
    """

    target: str
    """Prompt whose meaning the LoRA changes."""
    positive: str
    """Prompt whose concept is taken away or added."""
    unconditional: str = ""
    """Prompt that the concept is measured against, and what the walk is guided away from."""
    neutral: str = ""
    """Prompt that the goal starts from."""
    action: Action = "erase"
    """erase takes the concept away, enhance adds it."""
    guidance_scale: Finite = 1.0
    """Edit strength: how much of the concept is taken away or added. Not the walk's guidance."""
    resolution: tuple[Side, Side] = (512, 512)
    """(height, width) in pixels."""
    dynamic_resolution: bool = False
    """Vary a square resolution in steps of 64 pixels between half of it and all of it."""
    batch_size: BatchSize = 1
    """Latent samples of one walk."""
    dynamic_crops: bool = False
    """Vary SDXL's size conditioning."""
    multiplier: Finite = 1.0
    """LoRA strength at which this pair is trained; negative for the other end of a slider."""
    weight: Finite = 1.0
    """Weight of this pair's loss."""

    @property
    def keeps(self) -> bool:
        """Whether the pair's goal is what the model says for the target anyway."""
        return self.guidance_scale == 0 and self.neutral == self.target


class ModelConfig(Frozen):
    """The base model; it is never changed."""

    name_or_path: str = Field(min_length=1)
    """`builtin:tiny`, a diffusers folder, a .safetensors or .ckpt file, or a hub id."""
    extras: str | None = Field(None, min_length=1)
    """Diffusers folder or hub id with the text encoders and the VAE of a model that is a transformer in one file."""
    distilled: bool | None = None
    """Whether a flow model is distilled, and so walks without guidance; what its config files say when absent."""
    guidance_embedding: Finite | None = Field(None, ge=0)
    """Guidance that FLUX.1-dev (3.5 when absent) and FLUX.2-dev (4) are given as a number."""
    training_adapter: FilePath | None = None
    """LoRA that a distilled model needs in training only: added to the model, and no part of what is saved."""
    is_v2: bool | None = None
    """Confirms that it is Stable Diffusion 2.x, or not; the family is found out in any case."""
    is_xl: bool | None = None
    """Confirms that it is SDXL, or not; the family is found out in any case."""
    is_v_pred: bool | None = None
    """Whether it predicts v instead of epsilon; when absent, what its scheduler config or its file says."""
    zero_terminal_snr: bool = False
    """Start walks from noise without any signal (arXiv:2305.08891); for v-prediction models."""
    clip_skip: Whole | None = Field(None, ge=1)
    """Layer of the text encoder that is read, counted from the last, which is 1; the model's own when absent."""
    max_token_length: Literal[75, 150, 225] = 75
    """Tokens of a prompt that are read, in chunks of 75."""
    embeddings_folder: FilePath | None = None
    """Folder of textual-inversion embeddings; a prompt uses one by the name of its file."""


class NetworkConfig(Frozen):
    """The LoRA that is trained."""

    type: Annotated[Literal["lora", "loha", "lokr"], BeforeValidator(_no_dora)] = "lora"
    """Kind of network; loha and lokr files are in LyCORIS' format, which diffusers does not read."""
    linear: Rank = 4
    """Rank of the LoRA."""
    linear_alpha: Finite = Field(1.0, gt=0)
    """The LoRA's effect is scaled by alpha / rank."""
    conv: Rank | None = None
    """Rank on 3x3 convolutions; when set, the network also goes on the resnets and resamplers of the UNet."""
    conv_alpha: Finite = Field(1.0, gt=0)
    """The effect on 3x3 convolutions is scaled by conv_alpha / conv."""
    layers: Layers = "all"
    """Layers it goes on: cross-attention (xattn), self-attention, both, all but cross-attention; full means all."""
    only_if_contains: Texts = ()
    """Of these, only layers whose diffusers name holds one of these texts, such as mid_block."""
    ignore_if_contains: Texts = ()
    """Of these, no layers whose diffusers name holds one of these texts."""
    dropout: Finite = Field(0.0, ge=0, lt=1)
    """Probability that a number between lora's two matrices is left out in the student's pass."""
    rank_dropout: Finite = Field(0.0, ge=0, lt=1)
    """Probability that a rank, or an output of loha and lokr, is left out in the student's pass."""
    module_dropout: Finite = Field(0.0, ge=0, lt=1)
    """Probability that a layer's part of the network is left out in the student's pass."""
    network_weights: FilePath | None = None
    """LoRA file to go on from."""
    dim_from_weights: bool = False
    """Take layers, ranks and alphas from network_weights."""
    dtype: DType = "fp32"
    """Precision of the network's weights and gradients in training; below fp32, small steps are lost."""

    @model_validator(mode="after")
    def _options_fit(self) -> NetworkConfig:
        kinds = {"lora": _DROPOUTS, "loha": _DROPOUTS[1:], "lokr": _DROPOUTS[1:]}
        for name in _DROPOUTS:
            if getattr(self, name) and name not in kinds[self.type]:
                fitting = " and ".join(kind for kind, names in kinds.items() if name in names)
                fix = f"leave {name} out, or set type to lora"
                raise refuse(f"{name} is there for type {fitting} only", fix)
        if self.conv is not None and self.layers not in ("all", "noxattn"):
            fix = "leave conv out, or set layers to all or noxattn"
            raise refuse(f"conv means nothing where layers is {self.layers}", fix)
        if self.dim_from_weights and self.network_weights is None:
            raise refuse("dim_from_weights needs network_weights", "name the file in network_weights")
        return self


class MemoryConfig(Frozen):
    """What keeps the base model small and fast; `train` has its precision and gradient_checkpointing."""

    attention: Literal["sdpa", "xformers", "mem_eff"] = "sdpa"
    """sdpa: torch's attention; mem_eff: without its kernel that holds the whole matrix; xformers: on CUDA."""
    fp8_base: bool = False
    """Hold the base model's weights in eight bits: half the memory of bf16, and somewhat less exact."""
    quantize: Literal["fp8", "int8", "nf4"] | None = None
    """Hold a flow model's weights in eight bits (torchao) or four (bitsandbytes)."""
    offload: Literal["layers", "stream"] | None = None
    """Keep a flow model's weights in main memory, and bring each layer to the device when used; stream: ahead of it."""
    torch_compile: bool = False
    """Compile the model's blocks: minutes at the first start, less from then on; what it brings depends on the card."""
    dynamo_backend: str = Field("inductor", min_length=1)
    """What compiles it."""
    lowram: bool = False
    """Load weights straight onto the device: less main memory."""

    @model_validator(mode="after")
    def _options_fit(self) -> MemoryConfig:
        if self.fp8_base and self.quantize:
            raise refuse("fp8_base and quantize do the same", "keep one of the two")
        if self.quantize == "nf4" and self.offload:
            raise refuse("weights in nf4 cannot be offloaded", "set quantize to int8, or leave offload out")
        return self


class SaveConfig(Frozen):
    """The files that a run leaves."""

    overwrite: bool = False
    """Replace the files of an earlier run of the same name; without it, such a run is refused."""
    dtype: FileDType = "float16"
    """Precision of the LoRA files."""
    save_every: Whole | None = Field(None, ge=1)
    """Save an intermediate file every so many optimizer steps."""
    format: Literal["safetensors", "ckpt", "pt"] = "safetensors"
    """safetensors is what every loader reads; ckpt and pt are pickles without metadata."""
    max_step_saves_to_keep: Whole | None = Field(4, ge=1)
    """Older intermediate files of the same run are deleted beyond this number; none keeps all."""
    save_last_n_steps: Whole | None = Field(None, ge=1)
    """Delete intermediate files of the same run that are older than so many steps; off when absent."""
    save_state: bool = False
    """Write with every LoRA file, and at the end, all that a run can be resumed from."""
    save_state_on_train_end: bool = False
    """Write that at the end of the run only, also where it is stopped."""
    save_last_n_steps_state: Whole | None = Field(None, ge=1)
    """Delete states of the same run that are older than so many steps; as save_last_n_steps when absent."""
    no_metadata: bool = False
    """Write nothing into the LoRA files but the weights."""
    training_comment: str | None = None
    """A remark for the files' metadata."""
    sidecar: bool = False
    """Write NAME.json beside the LoRA, and NAME.png where pictures are drawn: what A1111 and InvokeAI show of it."""


class LoggingConfig(Frozen):
    """Where figures go besides the console."""

    logging_dir: FilePath | None = None
    """Folder for logs; every run writes into one of its own in it, named by the time."""
    log_with: Literal["tensorboard", "wandb", "all"] | None = None
    """Tracker; tensorboard where only logging_dir is set."""
    log_prefix: str = ""
    """Put before the time in the name of that folder."""
    log_tracker_name: str | None = Field(None, min_length=1)
    """Name of the tracker, which is wandb's project; leco_train when absent."""
    wandb_run_name: str | None = Field(None, min_length=1)
    """Name of the run in wandb; wandb makes one up when absent."""

    @model_validator(mode="after")
    def _options_fit(self) -> LoggingConfig:
        if self.log_with in ("tensorboard", "all") and self.logging_dir is None:
            raise refuse(f"log_with {self.log_with} needs logging_dir", "set logging_dir to a folder")
        if self.wandb_run_name and self.log_with not in ("wandb", "all"):
            raise refuse("wandb_run_name means nothing without wandb", "leave it out, or set log_with to wandb")
        return self


class LecoConfig(Frozen):
    """What LECO adds to a training job, besides its prompts."""

    max_denoising_steps: Whole = Field(40, ge=2, le=1000)
    """Sampler steps N of a whole walk; the stop is drawn from 1..N-1. When absent, a distilled flow model's own."""
    denoise_guidance_scale: Finite = Field(3.0, ge=0)
    """Guidance while walking; 1 for a distilled flow model when absent. Not a pair's edit strength, guidance_scale."""
    walk: Literal["pool", "fresh"] = "pool"
    """pool: walks in flight that every step moves on; fresh: every step walks anew from noise, as LECO itself does."""
    pool_size: Whole | None = Field(None, ge=1, le=32)
    """Walks of one sample in flight; four for each sample that a step trains at, up to 32, when absent."""
    pool_stride: Whole = Field(2, ge=1, le=8)
    """Sampler steps that a walk moves on by when it was trained at; more are slower, and vary the noise more."""
    pairs_per_step: Whole = Field(1, ge=1, le=32)
    """Walks that one step trains at together."""
    preserve: Preserved = ()
    """Prompts that shall stay as they are: a loss keeps them, at both signs of the multiplier; auto finds some."""
    preserve_weight: Finite = Field(1.0, gt=0)
    """Weight of that loss beside that of the pairs."""
    stop_at: Finite | None = Field(None, gt=0, le=10)
    """End the run when its effect is this large, where 1 is the whole concept; off when absent."""

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> LecoConfig:
        for option in ("pool_size", "pool_stride"):
            # the default is no choice: what a run wrote down of itself names it
            if self.walk == "fresh" and getattr(self, option) != LecoConfig.model_fields[option].default:
                raise refuse(f"{option} means nothing to walk fresh", f"leave {option} out, or set walk to pool")
        return self


class JobConfig(Frozen):
    """One training run of the process `leco`, fully resolved."""

    name: FileName
    """Base name of the files that the run writes."""
    training_folder: FilePath = Path("output")
    """The run writes into the folder `name` inside this one."""
    output_dir: FilePath | None = None
    """The run writes straight into this folder instead, as sd-scripts does."""
    device: str = Field("auto", pattern=r"^[a-z]+(:[0-9]{1,3})?$")
    """auto (cuda, else mps, else cpu) or a torch device such as cuda:1."""
    training_seed: Whole | None = Field(None, ge=0, lt=2**63)
    """Fixes everything that is drawn; drawn itself, and recorded, when absent."""
    resume: str | None = Field(None, min_length=1)
    """Go on from a state: its folder, or newest for the newest whole one of the newest run of this name."""
    model: ModelConfig
    network: NetworkConfig = NetworkConfig()
    memory: MemoryConfig = MemoryConfig()
    train: TrainConfig = TrainConfig()
    save: SaveConfig = SaveConfig()
    logging: LoggingConfig = LoggingConfig()
    sample: SampleConfig = SampleConfig()
    leco: LecoConfig = LecoConfig()
    pairs: tuple[PromptPair, ...] = Field(min_length=1)
    meta: dict[str, str] = Field(default_factory=dict)
    """What the job's `meta` section says, such as name and version; for the LoRA file's metadata."""

    @model_validator(mode="after")
    def _options_fit(self) -> JobConfig:
        if self.network.dtype == "fp16" and not fits_fp16(self.train.optimizer):
            name = self.train.optimizer
            message = f"network.dtype fp16 cannot hold the squares of gradients that optimizer {name} keeps"
            raise refuse(
                message, "set network.dtype to bf16 or fp32, or train.optimizer to adamw8bit, adafactor or lion"
            )
        return self

    @property
    def output_folder(self) -> Path:
        """Where the run's files go."""
        return self.output_dir or self.training_folder / self.name
