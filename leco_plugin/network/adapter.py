"""The config of a PEFT adapter, in adapter_config.json or diffusers' metadata: the scale and choice of its layers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from leco_plugin.errors import NetworkError

CONFIG_NAME = "adapter_config.json"
METADATA = "lora_adapter_metadata"
_MOST_BYTES = 2 * 2**20
"""A config that names every layer of the largest models twice has a quarter of it."""
_OWNERS = ("unet.", "transformer.")
_CHANGES_THE_MODEL = ("pissa", "olora", "corda", "loftq")
"""Ways to begin that PEFT repeats when it loads a file: they take from the model's own weights."""
# nested repetitions take ages to find that they do not match
_SLOW = re.compile(r"[*+}]\)[*+{?]")


class Adapter(BaseModel):
    """What PEFT's loader makes of a config; keys that say nothing of scale or layers are left aside."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    peft_type: str = "LORA"
    r: int | None = Field(None, ge=1)
    lora_alpha: float = Field(8.0, allow_inf_nan=False)
    alpha: float = Field(8.0, allow_inf_nan=False)
    """LoHa's and LoKr's name for it."""
    use_rslora: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    target_modules: str | list[str] | None = None
    target_parameters: list[str] | None = None
    exclude_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    init_lora_weights: bool | str | None = True

    def patterns(self) -> Iterator[str]:
        """What PEFT reads as regular expressions."""
        yield from (*(self.rank_pattern or ()), *(self.alpha_pattern or ()))
        # a name is matched as it is, and a text as a pattern
        yield from (one for one in (self.target_modules, self.exclude_modules) if isinstance(one, str))
        yield from [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern or ()

    def rank(self, layer: str) -> int | None:
        """The rank that is said for a layer, by its path in the model; None where none is."""
        said = self.rank_pattern or {}
        return said.get(get_pattern_key(said, layer), self.r)

    def scale(self, layer: str, rank: int) -> float:
        """What PEFT multiplies the change of a layer of this ``rank`` with."""
        alpha = self.lora_alpha if self.peft_type == "LORA" else self.alpha
        rooted = self.use_rslora and self.peft_type == "LORA"
        said = self.alpha_pattern or {}
        return float(said.get(get_pattern_key(said, layer), alpha)) / (rank**0.5 if rooted else rank)

    def takes(self, layer: str) -> bool:
        """Whether PEFT would put the adapter on a layer of this path."""
        if self.target_modules in (None, "all-linear"):
            return True
        return bool(check_target_module_exists(self, layer))


def adapter_beside(path: Path) -> Adapter | None:
    """The config in the folder of ``path``; None where there is none. NetworkError where it cannot be read."""
    config = path.with_name(CONFIG_NAME)
    if not config.exists():
        return None
    try:
        if config.stat().st_size > _MOST_BYTES:
            raise NetworkError(f"{config} has over {_MOST_BYTES} bytes", fix=_FIX)
        return _read(str(config), config.read_bytes(), "")
    except OSError as error:
        raise NetworkError(f"{config} cannot be read: {error.strerror}", fix=_FIX) from None


def adapter_in(path: Path, metadata: dict[str, str]) -> Adapter | None:
    """The config that diffusers wrote into the metadata of ``path``; None where there is none for the model."""
    text = metadata.get(METADATA)
    where = f"{METADATA} in the metadata of {path}"
    if text is None:
        return None
    if len(text) > _MOST_BYTES:
        raise NetworkError(f"{where} has over {_MOST_BYTES} bytes", fix=_FIX)
    return next((found for owner in _OWNERS if (found := _read(where, text.encode(), owner))), None)


_FIX = "get the file again, or say its scale with a key .alpha in each layer"


def _read(where: str, data: bytes, prefix: str) -> Adapter | None:
    """The keys under ``prefix``, or where none has it, those without one."""
    try:
        tree: Any = from_json(data)
        if not isinstance(tree, dict):
            raise TypeError("it is no table")
        own = {key.removeprefix(prefix): value for key, value in tree.items() if key.startswith(prefix)}
        plain = {key: value for key, value in tree.items() if "." not in key}
        if not own and not plain:
            return None
        found = Adapter.model_validate(own or plain)
        slow = next(filter(_SLOW.search, found.patterns()), "")
        if slow:
            raise ValueError(f"the pattern {slow!r} takes too long")
        if str(found.init_lora_weights).lower().startswith(_CHANGES_THE_MODEL):
            raise ValueError(f"init_lora_weights {found.init_lora_weights} changes the model's own weights")
        # patterns are compiled here, where it can be said what is wrong
        _ = found.rank("layer"), found.scale("layer", 1), found.takes("layer")
        return found
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise NetworkError(f"{where} cannot be read: {key}: {problem['msg']}", fix=_FIX) from None
    except (ValueError, TypeError, re.error) as error:
        raise NetworkError(f"{where} cannot be read: {str(error).splitlines()[0]}", fix=_FIX) from None
