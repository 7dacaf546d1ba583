"""Whether a run may go on with a state: what the two have to share."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from leco_plugin.config.schema import JobConfig, LecoConfig, ModelConfig, NetworkConfig, PromptPair, TrainConfig
from leco_plugin.engine.state_file import Stored
from leco_plugin.errors import ConfigError

MODEL_WEIGHTS = "weights of the model"
_PAIR = re.compile(r"pair \d+ ")
_MAY_DIFFER = frozenset({"train.steps", "train.gradient_checkpointing", "model.name_or_path"})
_SAMPLED_WEIGHTS, _SAMPLED_VALUES = 64, 16


def describe_run(job: JobConfig, seed: int) -> dict[str, str]:
    """What a run that goes on with a state must share with the one that wrote it, by option."""
    sections = {name: getattr(job, name).model_dump(mode="json") for name in ("model", "network", "train", "leco")}
    options = {f"{above}.{name}": value for above, values in sections.items() for name, value in values.items()}
    options["training_seed"] = seed
    for number, pair in enumerate(job.pairs, start=1):
        options |= {f"pair {number} {name}": value for name, value in pair.model_dump(mode="json").items()}
    return {name: json.dumps(value) for name, value in options.items() if name not in _MAY_DIFFER}


def describe_parts(pairs: Sequence[PromptPair], leco: LecoConfig, settings: Mapping[str, object]) -> dict[str, str]:
    """The same for a host that keeps its own options: of LECO's, with whatever else ``settings`` holds."""
    options: dict[str, object] = {f"leco.{name}": value for name, value in leco.model_dump(mode="json").items()}
    options |= settings
    for number, pair in enumerate(pairs, start=1):
        options |= {f"pair {number} {name}": value for name, value in pair.model_dump(mode="json").items()}
    return {name: json.dumps(value) for name, value in options.items()}


def model_weights_hash(module: nn.Module) -> str:
    """Tells models apart by a sample of their weights, wherever their files are; taken before a network is attached."""
    parameters = list(module.parameters())
    digest = hashlib.sha256()
    for parameter in parameters[:: max(1, len(parameters) // _SAMPLED_WEIGHTS)]:
        values = parameter.detach()
        # torchao's weights in fewer bits have few operations of their own
        values = (values if type(parameter.data) is Tensor else values.dequantize()).flatten()
        part = values[:: max(1, len(values) // _SAMPLED_VALUES)].to("cpu", torch.float32)
        digest.update(repr((tuple(parameter.shape), part.tolist())).encode())
    return digest.hexdigest()[:16]


def weights_hash(parameters: Iterable[Tensor]) -> str:
    """Tells weights apart, bit for bit."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def refuse_other_run(stored: Stored, described: Mapping[str, str]) -> None:
    """Raise ConfigError with every difference between the run of a state and the one that would go on with it."""
    # an option that is newer than the state was as it is when nobody sets it
    before = {**_defaults(described), **stored.described}
    names = [*described, *(name for name in before if name not in described)]
    differences = [
        f"{name}: {before.get(name, 'absent')} in the state, {described.get(name, 'absent')} now"
        for name in names
        if before.get(name) != described.get(name)
    ]
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise ConfigError(
            f"resume: the state at step {stored.step} is of another run: {shown}",
            fix="set what differs back, or leave resume out to start a new run",
        )


def _defaults(names: Iterable[str]) -> dict[str, str]:
    """What the options among ``names`` are when nobody sets them, as ``describe_run`` says it."""
    models: dict[str, type[BaseModel]] = {
        "model": ModelConfig,
        "network": NetworkConfig,
        "train": TrainConfig,
        "leco": LecoConfig,
    }
    known = {f"{above}.{name}": value for above, model in models.items() for name, value in _unset(model).items()}
    of_pairs = _unset(PromptPair)
    found = {name: of_pairs.get(name.rpartition(" ")[2]) if _PAIR.match(name) else known.get(name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _unset(model: type[BaseModel]) -> dict[str, str]:
    values = model.model_construct().model_dump(mode="json", warnings=False)
    return {name: json.dumps(value) for name, value in values.items()}
