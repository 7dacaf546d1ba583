"""What pydantic refuses, in words that a user's file can be corrected with."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel

from leco_plugin.config.findings import Findings, Key, did_you_mean
from leco_plugin.config.schema import JobConfig
from leco_plugin.config.values import describe, shorten

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_WANTED = {
    "int_type": ("a whole number", "write it without quotes or decimals"),
    "int_from_float": ("a whole number", "write it without decimals"),
    "float_type": ("a number", "write it without quotes, such as 1.0 or 1e-4"),
    "finite_number": ("a finite number", "write a number such as 1.0 or 1e-4"),
    "string_type": ("text", "put it in quotes"),
    "bool_type": ("true or false", "write true or false"),
    "model_type": ("a table", "remove it, or write its keys below it"),
    "path_type": ("text", "put it in quotes"),
    "string_unicode": ("text", "half of a character pair (a lone surrogate) is no text"),
    "string_pattern_mismatch": ("auto, cpu, mps, cuda or cuda:1", "auto takes the best device there is"),
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def blame(detail: ErrorDetails, base: Key, findings: Findings) -> None:
    """Note one refusal of `JobConfig` at its key below ``base``."""
    loc, kind = detail["loc"], detail["type"]
    key, context, value = (*base, *loc), detail.get("ctx", {}), detail["input"]
    if kind == "missing":
        findings.error(key[:-1], f"{loc[-1]} is missing", f"add '{loc[-1]}:'")
    elif kind == "extra_forbidden":
        findings.unknown(key, _fields(loc[:-1]))
    elif kind == "literal_error":
        choices = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        guess = did_you_mean(str(value), choices) if isinstance(value, str) else ""
        fix = f"did you mean '{guess}'?" if guess else f"write {choices[0]}"
        findings.error(key, f"must be {' or '.join(choices)}, not {describe(value)}", fix)
    elif kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        findings.error(key, f"must be {words} {context[name]}, not {shorten(value)}", "write another number")
    elif "fix" in context:
        findings.error(key, detail["msg"], str(context["fix"]))
    elif kind == "string_too_short":
        findings.error(key, "must not be empty", "write a name in quotes")
    elif kind == "value_error":
        findings.error(key, str(context["error"]), "choose another name, such as my_slider")
    else:
        wanted, fix = _WANTED.get(kind, ("something else", "see the example job files"))
        findings.error(key, f"must be {wanted}, not {describe(value)}", fix)


def _fields(loc: Key) -> set[str]:
    """Names that the schema knows in the table at ``loc``."""
    model: type[BaseModel] = JobConfig
    for name in loc:
        # items of a list are of the one kind that it holds
        if isinstance(name, int):
            continue
        kind = model.model_fields[name].annotation
        below = next(iter(get_args(kind)), kind)
        if not (isinstance(below, type) and issubclass(below, BaseModel)):
            return set()
        model = below
    return set(model.model_fields)
