"""The kinds of values that options take, and how they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from leco_plugin.config.blame import refuse
from leco_plugin.config.names import AUTO
from leco_plugin.config.optimizers import optimizer_name

_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_WINDOWS_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_OF_RUNS = re.compile(r"-step\d{8,}|-state$")
_LONGEST_NAME = 200
_LARGEST_SIDE = 2**14
_SHORT = {"float": "fp32", "float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
_LONG = {"fp32": "float32", "float": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}


class Frozen(BaseModel):
    """Base of all settings: immutable, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


@dataclass(frozen=True)
class AtMost:
    """An upper bound, and why there is one."""

    le: int
    why: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "maximum": self.le}

    def _check(self, value: int) -> int:
        if value > self.le:
            raise refuse(f"must be at most {self.le}, not {value}: {self.why}", "write a smaller number")
        return value


def _short_dtype(value: object) -> object:
    return _SHORT.get(value, value) if isinstance(value, str) else value


def _long_dtype(value: object) -> object:
    return _LONG.get(value, value) if isinstance(value, str) else value


def _whole(value: object) -> object:
    """Take 1e3, which YAML reads as a float, for the whole number that it is."""
    if isinstance(value, bool):
        raise PydanticKnownError("int_type")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and abs(value) >= 2**63:
        raise refuse("is larger than any number that is meant here", "write a smaller number")
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    if isinstance(value, int) and abs(value) >= 10**300:
        raise PydanticKnownError("finite_number")
    return value


def _side(value: int) -> int:
    if value < 8 or value % 8:
        nearest = max(8, round(value / 8) * 8)
        raise refuse(f"must be a positive multiple of 8, not {value}", f"did you mean {nearest}?")
    if value > _LARGEST_SIDE:
        raise refuse(f"{value} pixels are more than any model draws", "write the size in pixels")
    return value


def _steps_or_fraction(value: float) -> float:
    """Whole numbers are steps, and those below 1 a fraction of the run."""
    if value >= 1 and not value.is_integer():
        fix = "write a whole number of steps, or a fraction of the run below 1"
        raise refuse(f"must be whole, or below 1, not {value}", fix)
    return int(value) if value.is_integer() else value


def _param(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value):
        return tuple(value)
    raise refuse(
        "is nothing that an optimizer can be given", "write a number, true or false, text, or a list of numbers"
    )


def _own_parameters(params: dict[str, Param]) -> dict[str, Param]:
    for name, instead in (("lr", "train.lr"), ("params", "network")):
        if name in params:
            raise refuse(f"{name} is not set here", f"leave it out; {instead} says it")
    return params


def _file_name(name: str) -> str:
    """Refuse what cannot be a file's name on every system, or is the name of another run's file."""
    bad = _NOT_IN_NAMES.search(name)
    if not name.strip():
        why = "must not be empty"
    elif bad:
        why = f"is used as a file name, which cannot hold {bad.group()!a}"
    elif name != name.strip() or name.endswith("."):
        why = "is used as a file name, which cannot begin or end with a blank or end with a dot"
    elif _WINDOWS_DEVICES.fullmatch(name):
        why = "is used as a file name, and Windows keeps this one for a device"
    elif len(name.encode()) > _LONGEST_NAME:
        why = f"is used as a file name, and is longer than {_LONGEST_NAME} bytes"
    elif _OF_RUNS.search(name):
        why = "is what a run calls a file of one of its steps, or a state, so the two could not be told apart"
    else:
        return name
    raise refuse(why, "choose another name, such as my_slider")


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
Layers = Annotated[
    Literal["all", "attention", "xattn", "selfattn", "noxattn"],
    BeforeValidator(_full_is_all),
    WithJsonSchema({"enum": ["all", "attention", "xattn", "selfattn", "noxattn", "full"]}),
]
DType = Annotated[
    Literal["fp32", "bf16", "fp16"],
    BeforeValidator(_short_dtype),
    WithJsonSchema({"enum": ["fp32", "bf16", "fp16", *_SHORT]}),
]
FileDType = Annotated[
    Literal["float32", "float16", "bfloat16"],
    BeforeValidator(_long_dtype),
    WithJsonSchema({"enum": ["float32", "float16", "bfloat16", *_LONG]}),
]
Whole = Annotated[int, BeforeValidator(_whole)]
Rank = Annotated[Whole, Field(ge=1), AtMost(8192, "a layer has no more directions to change than it is wide")]
BatchSize = Annotated[Whole, Field(ge=1), AtMost(1024, "no device holds more samples of one walk")]
_SIDE_SCHEMA = {"type": "integer", "minimum": 8, "maximum": _LARGEST_SIDE, "multipleOf": 8}
Side = Annotated[Whole, AfterValidator(_side), WithJsonSchema(_SIDE_SCHEMA)]
"""Pixels."""
Size = tuple[int, int]
"""(height, width) in pixels."""
Finite = Annotated[FiniteFloat, BeforeValidator(_number)]
StepsOrFraction = Annotated[Finite, AfterValidator(_steps_or_fraction)]
Param = Annotated[Any, PlainValidator(_param)]
"""What an optimizer can be given: a number, a switch, text, numbers, or None."""
Params = Annotated[dict[str, Param], AfterValidator(_own_parameters)]
Optimizer = Annotated[str, AfterValidator(optimizer_name)]
FilePath = Annotated[Path, Field(strict=False)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]
_TEXTS_SCHEMA = {"type": "array", "items": {"type": "string"}}
Preserved = Annotated[
    Texts,
    BeforeValidator(lambda value: [AUTO] if value == AUTO else value),
    WithJsonSchema({"anyOf": [{"const": AUTO}, _TEXTS_SCHEMA]}),
]


@dataclass(frozen=True)
class Sizes:
    """One or several sizes; several is a list of lists in the file."""

    each: tuple[Size, ...]
    several: bool = False


def _square(value: object) -> object:
    if not isinstance(value, list):
        side = _SIDE.validate_python(value)
        return side, side
    if len(value) != 2:
        message = f"a size is one number or two, not {len(value)}"
        raise refuse(message, "write 512 for a square, or [height, width]")
    return value


def _sizes(value: object) -> Sizes:
    if isinstance(value, Sizes):
        return value
    if not isinstance(value, list) or not any(isinstance(item, list) for item in value):
        return Sizes((_SIZE.validate_python(value),))
    if not isinstance(value[0], list):
        raise refuse("numbers stand beside lists; is this one size or several?", "write every item as [height, width]")
    return Sizes(_SIZES.validate_python(value), several=True)


_STRICT_SIDE = Annotated[Annotated[int, Field(strict=True)], BeforeValidator(_whole), AfterValidator(_side)]
_ONE_SIZE = Annotated[tuple[_STRICT_SIDE, _STRICT_SIDE], BeforeValidator(_square)]
_SIDE: TypeAdapter[int] = TypeAdapter(_STRICT_SIDE)
_SIZE: TypeAdapter[Size] = TypeAdapter(_ONE_SIZE)
_SIZES: TypeAdapter[tuple[Size, ...]] = TypeAdapter(tuple[_ONE_SIZE, ...])
_PAIR_SCHEMA = {"type": "array", "items": _SIDE_SCHEMA, "minItems": 2, "maxItems": 2}
_SIZES_SCHEMA = {"type": "array", "items": {"anyOf": [_SIDE_SCHEMA, _PAIR_SCHEMA]}, "minItems": 1}
SizesOption = Annotated[Sizes, PlainValidator(_sizes), WithJsonSchema({"anyOf": [_SIDE_SCHEMA, _SIZES_SCHEMA]})]
"""512 for a square, [height, width], or a list of either."""
