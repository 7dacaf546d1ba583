"""The kinds of values that options take, and how they are read."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, PlainValidator
from pydantic_core import PydanticCustomError

from leco_plugin.config.optimizers import optimizer_name

_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_WINDOWS_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_LONGEST_NAME = 200
_SHORT = {"float": "fp32", "float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
_LONG = {"fp32": "float32", "float": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}


class Frozen(BaseModel):
    """Base of all settings: immutable, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def _short_dtype(value: object) -> object:
    return _SHORT.get(value, value) if isinstance(value, str) else value


def _long_dtype(value: object) -> object:
    return _LONG.get(value, value) if isinstance(value, str) else value


def _whole(value: object) -> object:
    """Take 1e3, which YAML reads as a float, for the whole number that it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _steps_or_fraction(value: float) -> float:
    """Whole numbers are steps, and those below 1 a fraction of the run."""
    if value >= 1 and not value.is_integer():
        fix = "write a whole number of steps, or a fraction of the run below 1"
        raise PydanticCustomError("steps", "must be whole, or below 1, not {value}", {"value": value, "fix": fix})
    return int(value) if value.is_integer() else value


def _param(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value):
        return tuple(value)
    fix = "write a number, true or false, text, or a list of numbers"
    raise PydanticCustomError("param", "is nothing that an optimizer can be given", {"fix": fix})


def _own_parameters(params: dict[str, Param]) -> dict[str, Param]:
    for name, instead in (("lr", "train.lr"), ("params", "network")):
        if name in params:
            fix = f"leave it out; {instead} says it"
            raise PydanticCustomError("params", "{name} is not set here", {"name": name, "fix": fix})
    return params


def _file_name(name: str) -> str:
    """Refuse what cannot be a file's name on every system; raises ValueError."""
    if not name.strip():
        raise ValueError("must not be empty")
    bad = _NOT_IN_NAMES.search(name)
    if bad:
        raise ValueError(f"is used as a file name, which cannot hold {bad.group()!a}")
    if name != name.strip() or name.endswith("."):
        raise ValueError("is used as a file name, which cannot begin or end with a blank or end with a dot")
    if _WINDOWS_DEVICES.fullmatch(name):
        raise ValueError("is used as a file name, and Windows keeps this one for a device")
    if len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"is used as a file name, and is longer than {_LONGEST_NAME} bytes")
    return name


def _full_is_all(value: object) -> object:
    """LECO and Concept Sliders call it full."""
    return "all" if value == "full" else value


FileName = Annotated[str, AfterValidator(_file_name)]
"""What the files of a run can be called."""
Action = Literal["erase", "enhance"]
LrScheduler = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "cosine_with_min_lr",
    "inverse_sqrt",
    "warmup_stable_decay",
]
Layers = Annotated[Literal["all", "attention", "xattn", "selfattn", "noxattn"], BeforeValidator(_full_is_all)]
DType = Annotated[Literal["fp32", "bf16", "fp16"], BeforeValidator(_short_dtype)]
FileDType = Annotated[Literal["float32", "float16", "bfloat16"], BeforeValidator(_long_dtype)]
Whole = Annotated[int, BeforeValidator(_whole)]
Side = Annotated[int, Field(gt=0, multiple_of=8)]
Finite = FiniteFloat
StepsOrFraction = Annotated[FiniteFloat, AfterValidator(_steps_or_fraction)]
Param = Annotated[bool | int | float | str | tuple[float, ...] | None, PlainValidator(_param)]
"""What an optimizer can be given."""
Params = Annotated[dict[str, Param], AfterValidator(_own_parameters)]
Optimizer = Annotated[str, AfterValidator(optimizer_name)]
