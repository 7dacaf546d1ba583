"""The one way to read and to refuse values: pydantic's verdict, in words that a user's file is corrected with."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from leco_plugin.config.findings import Findings, Key, describe, did_you_mean, shorten

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)
_WANTED = {
    "int": ("a whole number", "write it without quotes or decimals"),
    "float": ("a number", "write a number such as 1.0 or 1e-4"),
    "finite_number": ("a finite number", "write a number such as 1.0 or 1e-4"),
    "string": ("text", "put it in quotes"),
    "bool": ("true or false", "write true or false"),
    "model": ("a table", "remove it, or write its keys below it"),
    "dict": ("a table", "remove it, or write its keys below it"),
    "path": ("text", "put it in quotes"),
    "tuple": ("a list", 'write it as [..., ...], texts as ["first", "second"]'),
    "string_unicode": ("text", "half of a character pair (a lone surrogate) is no text"),
    "string_pattern_mismatch": ("auto, cpu, mps, cuda or cuda:1", "auto takes the best device there is"),
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")


def refuse(message: str, fix: str) -> PydanticCustomError:
    """What a validator raises: what is wrong with a value, and the fix."""
    return PydanticCustomError("refused", "{said}", {"said": message, "fix": fix})


def read_model(
    model: type[Model], table: Mapping[str, object], key: Key, findings: Findings, *, strict: bool = True
) -> Model | None:
    """Read a table; what is wrong is noted below ``key``, and read as if it were absent.

    None where nothing is left to go by, since a key that is required is absent or the rest is contradictory.
    Not ``strict`` takes texts for the numbers that they spell, as a command line gives them.
    """
    table = _filled(model, table)
    try:
        return model.model_validate(table, strict=None if strict else False)
    except ValidationError as error:
        details = error.errors(include_url=False)
    for detail in details:
        blame(detail, key, findings, model)
    wrong = {detail["loc"][0] for detail in details if detail["loc"] and detail["type"] != "missing"}
    rest = {name: value for name, value in table.items() if name not in wrong}
    try:
        return model.model_validate(rest, strict=None if strict else False) if wrong else None
    except ValidationError:
        return None


def _filled(model: type[BaseModel], table: Mapping[str, object]) -> dict[str, object]:
    """``table`` without the keys that hold nothing where a table or a list is meant, as in YAML's ``train:``."""
    filled: dict[str, object] = {}
    for name, value in table.items():
        kind = model.model_fields[name].annotation if name in model.model_fields else None
        section = isinstance(kind, type) and issubclass(kind, BaseModel)
        if section and isinstance(value, dict):
            filled[name] = _filled(cast("type[BaseModel]", kind), value)
        elif value is not None or not (section or get_origin(kind) in (tuple, dict)):
            filled[name] = value
    return filled


def blame(detail: ErrorDetails, base: Key, findings: Findings, model: type[BaseModel]) -> None:
    """Note one refusal of ``model`` at its key below ``base``."""
    loc, kind, value = detail["loc"], detail["type"], detail["input"]
    key, context = (*base, *loc), detail.get("ctx", {})
    if kind == "missing":
        findings.error(key[:-1], f"{loc[-1]} is missing", f"add '{loc[-1]}:'")
    elif kind == "extra_forbidden":
        findings.unknown(key, _fields(model, loc[:-1]))
    elif "fix" in context:
        findings.error(key, detail["msg"], str(context["fix"]))
    else:
        findings.error(key, *_verdict(kind, context, value))


def check_texts(value: object, key: Key, findings: Findings) -> None:
    """Note each text below ``key`` that holds what no file can mean: a control character, or half of a character."""
    if isinstance(value, dict):
        for name, child in value.items():
            check_texts(child, (*key, name), findings)
    elif isinstance(value, list):
        for number, child in enumerate(value):
            check_texts(child, (*key, number), findings)
    elif isinstance(value, str):
        check_text(value, key, findings)


def check_text(text: str, key: Key, findings: Findings, place: str = "") -> None:
    """Note such a text; ``place`` says where it stands in a file that the key names."""
    found = _CONTROL.search(text)
    if found:
        message = f"holds the control character {found.group()!a}"
        findings.error(key, place + message, "take it out, or save the text anew")
    elif not text.isascii() and _SURROGATE.search(text):
        message = "half of a character pair (a lone surrogate) is no text"
        findings.error(key, place + message, "write the character itself")


def _verdict(kind: str, context: Mapping[str, object], value: object) -> tuple[str, str]:
    """What is wrong with a value, and the fix."""
    if kind == "literal_error":
        choices = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        guess = did_you_mean(value.strip(), choices) if isinstance(value, str) else ""
        fix = f"did you mean '{guess}'?" if guess else f"write {choices[0]}"
        return f"must be {' or '.join(choices)}, not {describe(value)}", fix
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]}, not {shorten(value)}", "write another number"
    if kind in ("string_too_short", "too_short"):
        return ("must not be empty", "write a name in quotes") if kind[0] == "s" else ("the list is empty", "fill it")
    family = re.sub(r"_(type|parsing|parsing_size|from_float)$", "", kind)
    wanted, fix = _WANTED.get(family, ("something else", "see the example job files"))
    return f"must be {wanted}, not {describe(value)}", _number_fix(value, fix) if family in ("int", "float") else fix


def _number_fix(value: object, fix: str) -> str:
    if isinstance(value, float):
        return f"did you mean {round(value)}?" if math.isfinite(value) else fix
    return "remove the quotes" if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) else fix


def _fields(model: type[BaseModel], loc: Key) -> set[str]:
    """Names that ``model`` knows in the table at ``loc``."""
    for name in loc:
        # items of a list are of the one kind that it holds
        if isinstance(name, int):
            continue
        below = _model_in(model.model_fields[name].annotation)
        if below is None:
            return set()
        model = below
    return set(model.model_fields)


def _model_in(kind: object) -> type[BaseModel] | None:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next(filter(None, map(_model_in, get_args(kind))), None)
