"""The estimate of one run, and what makes it fit a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.estimate.layers import Model
from leco_plugin.estimate.memory import Adapter, Calls, Parts, memory_parts
from leco_plugin.estimate.model_files import ModelFacts, UnknownModelError, find_model, most_common_rank
from leco_plugin.estimate.rows import rows_of, widest_calls
from leco_plugin.estimate.unet import unet_model

_PIXELS_PER_LATENT, _TOKENS_PER_CHUNK, _CHUNK = 8, 77, 75
_ATTENTION_BACKWARD = 2.5
"""Its products in the backward pass, in those of the forward pass: five for two, as they are worked out again."""
_SMALLEST_SIDE, _SMALLEST_RANK = 256, 4


@dataclass(frozen=True)
class Estimate:
    """What a run will need."""

    parts: Parts
    calls: Calls
    rows: float
    """Forward passes of one sample in an optimizer step, backward passes left out."""
    flops: float
    """Of one optimizer step."""


def estimate(job: JobConfig) -> Estimate:
    """Memory and work of ``job``; UnknownModelError where its model is not at hand or of an unusual make."""
    facts = find_model(job.model.name_or_path)
    rank = job.network.linear
    if job.network.dim_from_weights and job.network.network_weights is not None:
        rank = most_common_rank(job.network.network_weights) or rank
    return _estimate(job, facts, Adapter(job.network, rank))


def _estimate(job: JobConfig, facts: ModelFacts, adapter: Adapter) -> Estimate:
    calls = widest_calls(job)
    largest = max(job.pairs, key=lambda pair: pair.resolution[0] * pair.resolution[1])
    parts = memory_parts(job, _model(facts, job, largest), adapter, calls, facts.text_numbers)
    walks = job.train.gradient_accumulation * job.leco.pairs_per_step / len(job.pairs)
    rows = flops = 0.0
    for pair in job.pairs:
        asked = rows_of(pair, job)
        passes = asked.without_gradient + asked.student * (2 if job.train.gradient_checkpointing else 1)
        model = _model(facts, job, pair)
        forward, added = model.flops, _adapter_flops(model, adapter)
        backward = forward + (_ATTENTION_BACKWARD - 1) * model.attention_flops + 2 * added
        rows += walks * pair.batch_size * passes
        flops += walks * pair.batch_size * (passes * (forward + added) + asked.student * backward)
    return Estimate(parts, calls, rows, flops)


def _model(facts: ModelFacts, job: JobConfig, pair: PromptPair) -> Model:
    height, width = (side // _PIXELS_PER_LATENT for side in pair.resolution)
    tokens = _TOKENS_PER_CHUNK * job.model.max_token_length // _CHUNK
    model = unet_model(facts.unet, height, width, tokens)
    if model is None:
        raise UnknownModelError("its UNet is of an unusual make")
    return model


def _adapter_flops(model: Model, adapter: Adapter) -> int:
    return sum(2 * adapter.weights_on(layer) * layer.positions[1] for layer in model.layers)


def what_fits(job: JobConfig, room: float) -> tuple[list[str], Estimate]:
    """Options to set, one after the other, until the run needs no more than ``room`` bytes, and the estimate then.

    The best that there is, where all of them are not enough.
    """
    said, now = [], estimate(job)
    for option, change in _CHANGES:
        if now.parts.peak <= room:
            break
        changed = change(job)
        if changed is None:
            continue
        then = estimate(changed)
        if then.parts.peak < 0.98 * now.parts.peak:
            job, now = changed, then
            said.append(option(changed))
    return said, now


def _with(job: JobConfig, section: str, **values: object) -> JobConfig:
    return job.model_copy(update={section: getattr(job, section).model_copy(update=values)})


def _half_precision(job: JobConfig) -> JobConfig | None:
    return _with(job, "train", dtype="bf16") if job.train.dtype == "fp32" else None


def _checkpointing(job: JobConfig) -> JobConfig | None:
    return None if job.train.gradient_checkpointing else _with(job, "train", gradient_checkpointing=True)


def _one_pair(job: JobConfig) -> JobConfig | None:
    return _with(job, "leco", pairs_per_step=1) if job.leco.pairs_per_step > 1 else None


def _one_sample(job: JobConfig) -> JobConfig | None:
    if all(pair.batch_size == 1 for pair in job.pairs):
        return None
    return job.model_copy(update={"pairs": tuple(pair.model_copy(update={"batch_size": 1}) for pair in job.pairs)})


def _eight_bit_optimizer(job: JobConfig) -> JobConfig | None:
    return _with(job, "train", optimizer="adamw8bit") if job.train.optimizer == "adamw" else None


def _eight_bit_model(job: JobConfig) -> JobConfig | None:
    return None if job.memory.fp8_base else _with(job, "memory", fp8_base=True)


def _half_size(job: JobConfig) -> JobConfig | None:
    side = max(max(pair.resolution) for pair in job.pairs)
    if side // 2 < _SMALLEST_SIDE:
        return None
    smaller = tuple(pair.model_copy(update={"resolution": _halved(pair.resolution)}) for pair in job.pairs)
    return job.model_copy(update={"pairs": smaller})


def _halved(resolution: tuple[int, int]) -> tuple[int, int]:
    # multiples of 64, as every model takes them
    height, width = (max(64, side // 2 // 64 * 64) for side in resolution)
    return height, width


def _low_rank(job: JobConfig) -> JobConfig | None:
    if job.network.linear <= _SMALLEST_RANK or job.network.dim_from_weights:
        return None
    return _with(job, "network", linear=_SMALLEST_RANK)


Change = tuple[Callable[[JobConfig], str], Callable[[JobConfig], JobConfig | None]]


def _changes() -> Iterator[Change]:
    yield lambda job: "train.dtype: bf16", _half_precision
    yield lambda job: "train.gradient_checkpointing: true", _checkpointing
    yield lambda job: "leco.pairs_per_step: 1", _one_pair
    yield lambda job: "batch_size = 1 in the prompts", _one_sample
    yield lambda job: "memory.fp8_base: true", _eight_bit_model
    yield lambda job: "train.optimizer: adamw8bit", _eight_bit_optimizer
    yield lambda job: f"network.linear: {job.network.linear}", _low_rank
    yield lambda job: f"resolution = {max(max(pair.resolution) for pair in job.pairs)} in the prompts", _half_size


_CHANGES = tuple(_changes())
"""What makes a run smaller, from what costs least to what costs most."""
