"""Settings with which a run goes to its end, and the LoRA does nothing, or next to nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leco_plugin.config.optimizers import named_optimizer
from leco_plugin.config.sample import SampleConfig
from leco_plugin.config.schema import JobConfig, NetworkConfig, PromptPair
from leco_plugin.config.train import TrainConfig
from leco_plugin.errors import ConfigError, Problem

LOWEST_FACTOR = 0.1
"""Of optimizers that find their rate themselves and take lr as a factor."""
LOWEST_SCALE = 1e-3
"""Of alpha / rank: alpha 1 at the highest ranks that are used."""


def idle_pair(pair: PromptPair) -> bool:
    """Whether a pair teaches nothing: it is switched off, or its goal is what the model says anyway."""
    same = pair.guidance_scale == 0 or pair.positive == pair.unconditional
    return pair.weight == 0 or pair.multiplier == 0 or (same and pair.neutral == pair.target)


def refuse_nothing(pairs: Sequence[PromptPair]) -> None:
    """Raise ConfigError where no pair teaches anything."""
    if all(map(idle_pair, pairs)):
        raise ConfigError(
            "no pair asks for a change, so the LoRA would do nothing",
            fix="give one a weight, a multiplier and a guidance_scale other than 0, and a positive of its own",
        )


def idle_settings(job: JobConfig) -> Iterator[Problem]:
    """What of a job keeps its LoRA from learning or showing anything, one sentence each."""
    yield from _rates(job.train)
    yield from _scales(job.network)
    if job.leco.denoise_guidance_scale == 0:
        yield Problem(
            None,
            "leco.denoise_guidance_scale 0 walks as if there were no prompt: it is trained on pictures of anything",
            "leave it out, or write 1 for no guidance",
        )
    if job.sample.asked:
        yield from _pictures(job.sample)


def _rates(train: TrainConfig) -> Iterator[Problem]:
    name = "lr" if train.unet_lr is None else "unet_lr"
    if train.learning_rate == 0:
        yield Problem(None, f"train.{name} 0 trains nothing, so the LoRA will do nothing", f"set train.{name}: 1e-4")
    elif named_optimizer(train.optimizer).finds_its_rate and train.learning_rate < LOWEST_FACTOR:
        yield Problem(
            None,
            f"{train.optimizer} finds its learning rate itself and takes {name} as a factor: 1 is usual, not "
            f"{train.learning_rate:g}",
            f"set train.{name}: 1",
        )
    warmup = train.in_steps(train.lr_warmup_steps)
    if warmup >= train.steps:
        yield Problem(
            None,
            f"train.lr_warmup_steps {warmup} is no less than the {train.steps} steps, so lr is never reached",
            "set fewer, such as 0.1 for a tenth of the run",
        )


def _pictures(sample: SampleConfig) -> Iterator[Problem]:
    strengths = sample.multipliers or (sample.network_multiplier,)
    said = {
        "guidance_scale 0 draws as if there were no prompt": sample.guidance_scale == 0,
        f"from_step {sample.from_step} never switches the LoRA on in {sample.sample_steps} sample_steps":
            sample.from_step >= sample.sample_steps,
        "multipliers of 0 alone draw the base model, and no LoRA": not any(one is None or one for one in strengths),
    }  # fmt: skip
    for message, is_so in said.items():
        if is_so:
            yield Problem(None, f"sample.{message}", f"leave {message.split()[0]} out")


def _scales(network: NetworkConfig) -> Iterator[Problem]:
    sizes = {"linear": (network.linear_alpha, network.linear), "conv": (network.conv_alpha, network.conv)}
    for name, (alpha, rank) in sizes.items():
        if rank and alpha / rank < LOWEST_SCALE and not network.dim_from_weights:
            yield Problem(
                None,
                f"network.{name}_alpha {alpha:g} scales the effect by alpha / rank, {alpha / rank:.2g}: hardly "
                "anything is learned",
                f"set network.{name}_alpha: {rank}",
            )
