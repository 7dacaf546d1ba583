"""Which of a run's processes this one is, as `accelerate launch` and torchrun say it in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from leco_plugin.errors import ConfigError

_SHARDING = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM"}
_ONE_COPY = "memory.quantize, memory.offload and memory.fp8_base make a model smaller on each device"
NOT_STARTED = (
    "accelerate was asked for several processes, and started one, as it does on a CPU; with --multi_gpu it starts them"
)


@dataclass(frozen=True)
class Place:
    """A process among those of its run."""

    rank: int = 0
    local_rank: int = 0
    """Among those of its machine."""
    count: int = 1
    local_count: int = 1
    """On its machine."""

    @property
    def first(self) -> bool:
        """Whether it is the one that writes, prints and draws."""
        return self.rank == 0


def place() -> Place:
    """The place of this process; ConfigError where the environment asks for what a run cannot be."""
    split = next((name for key, name in _SHARDING.items() if _on(f"ACCELERATE_USE_{key}")), None)
    if split:
        why = "splits the model over devices, which then have to call it equally often; each one's walks do not"
        raise ConfigError(f"accelerate is set to {split}, which {why}", fix=_ONE_COPY)
    count = _number("WORLD_SIZE", 1)
    if count <= 1:
        return Place()
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {count}, and {', '.join(missing)} not set",
            fix=f"start with accelerate launch --num_processes {count}, or unset WORLD_SIZE",
        )
    return Place(_number("RANK", 0), _number("LOCAL_RANK", 0), count, _number("LOCAL_WORLD_SIZE", count))


def speaks_here() -> bool:
    """Whether this process is its machine's first, which says what all of its processes find."""
    return os.environ.get("LOCAL_RANK", "0") in ("0", "-1", "") or os.environ.get("WORLD_SIZE", "1") in ("", "0", "1")


def one_instead_of_several() -> bool:
    """Whether accelerate was asked for several processes, and has started this one alone."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and place().count == 1


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"the environment variable {name} is {text!r}, not a number", fix=f"unset {name}") from None


def _on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
