"""The table of sd-scripts' flags: what each sets in a job, or why it sets nothing, and at which values it is off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leco_plugin.config.toml_file import tomllib

Kind = Literal["text", "int", "float", "switch", "texts", "steps"]
"""steps: a whole number, a fraction below 1 or a percentage; texts: any number of words."""


@dataclass(frozen=True)
class Flag:
    """One flag; exactly one of ``to``, ``refused`` and ``note`` says what becomes of it."""

    kind: Kind
    to: str = ""
    """Option of a job that it sets; ``*name`` where several flags have to be read together."""
    refused: str = ""
    """Why LECO cannot follow it."""
    note: str = ""
    """Why it changes nothing, and may stay."""
    off: tuple[str | float, ...] = ()
    """Values that ask for nothing, as sd-scripts reads them or as it has them anyway; for all: "", [] and false."""


def _flags(table: Mapping[str, Any]) -> Iterator[tuple[str, Flag]]:
    off = {name: tuple(values) for name, values in table["off"].items()}
    for kind, sets in table["sets"].items():
        yield from ((name, Flag(kind, to=to, off=off.get(name, ()))) for name, to in sets.items())
    for what in ("refused", "note"):
        for reason, kinds in table[what].items():
            for kind, names in kinds.items():
                yield from ((name, Flag(kind, off=off.get(name, ()), **{what: reason})) for name in names)


FLAGS: Mapping[str, Flag] = dict(
    _flags(tomllib.loads((Path(__file__).parent / "sd_flags.toml").read_text(encoding="utf-8")))
)
REQUIRED = ("pretrained_model_name_or_path", "prompts_file", "output_dir", "output_name")
NETWORK_MODULES: Mapping[str, str] = {
    "networks.lora": "lora", "networks.loha": "loha", "networks.lokr": "lokr", "lycoris.kohya": "lora",
}  # fmt: skip
"""What sd-scripts calls a network, and which of ours it is; LyCORIS says more in network_args."""
ALGORITHMS: Mapping[str, str] = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}
NETWORK_ARGS: Mapping[str, tuple[Kind, str]] = {
    "conv_dim": ("int", "network.conv"),
    "conv_alpha": ("float", "network.conv_alpha"),
    "dropout": ("float", "network.dropout"),
    "rank_dropout": ("float", "network.rank_dropout"),
    "module_dropout": ("float", "network.module_dropout"),
}

NETWORK_ARGS_OFF: Mapping[str, int] = {"conv_dim": 0, "factor": -1}
"""What asks for nothing besides None and empty text, and 0 and False of those that are not there."""


def options() -> Iterator[tuple[str, str]]:
    """(flag, option of a job) of every flag that sets one by itself."""
    return ((name, flag.to) for name, flag in FLAGS.items() if flag.to and not flag.to.startswith("*"))
