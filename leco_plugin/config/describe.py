"""The options of a job file as a Markdown page: ``python -m leco_plugin.config.describe > docs/options.md``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from leco_plugin.config.schema import JobConfig
from leco_plugin.config.window_keys import WINDOW_KEYS

_OF_THE_JOB_FILE = {"name": "`config`", "meta": "the file"}
_ELSEWHERE = {"pairs"}


def page() -> str:
    """Every option with its default, range and meaning, section by section."""
    parts = ["# Options of a job file", "", "Made from the schema by `python -m leco_plugin.config.describe`."]
    plain = {name: field for name, field in JobConfig.model_fields.items() if not _section(field)}
    parts += ["", "## The process (`- type: leco`)", "", *_table(plain)]
    for name, field in JobConfig.model_fields.items():
        section = _section(field)
        if section:
            parts += ["", f"## `{name}:`", "", section.__doc__ or "", "", *_table(section.model_fields)]
    extra = "Besides these, `leco:` holds `prompts_file`, or the tables of a prompt file inline."
    window = "A job may have what the pages of ai-toolkit's web UI look for, in a form that asks for nothing: "
    keys = "; ".join(f"`{'.'.join(place)}` {wrong}" for place, (_, wrong, _) in WINDOW_KEYS.items())
    return "\n".join([*parts, "", extra, "", f"{window}{keys}.", ""])


def _table(fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| option | default | values | |"
    yield "|---|---|---|---|"
    for name, field in fields.items():
        if name in _ELSEWHERE:
            continue
        place = f" (in {_OF_THE_JOB_FILE[name]})" if name in _OF_THE_JOB_FILE else ""
        yield f"| `{name}`{place} | {_default(field)} | {_values(field)} | {_one_line(field.description or '')} |"


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined or value == {}:
        return "none"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _values(field: FieldInfo) -> str:
    choices = _choices(field.annotation)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = [(name, sign) for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))]
    optional = [rule for part in get_args(field.annotation) for rule in getattr(part, "__metadata__", ())]
    given = [one for rule in (*field.metadata, *optional) for one in getattr(rule, "metadata", [rule])]
    rules = [(rule, name, sign) for rule in given for name, sign in limits if hasattr(rule, name)]
    found = [f"{sign} {getattr(rule, name):g}" for rule, name, sign in rules]
    return ", ".join(found)


def _choices(kind: object) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return tuple(choice for part in get_args(kind) for choice in _choices(part))


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
