"""JSON Schemas of our files, for editors: ``python -m leco_plugin.config.editors`` writes the two that are shipped.

An editor checks keys, types and ranges as a file is written; what options mean to one another is for `leco check`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, get_args

from leco_plugin.config import prompt_keys as keys
from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.config.values import Values
from leco_plugin.config.window_keys import WINDOW_KEYS

SchemaKind = Literal["job", "prompts"]
KINDS: tuple[SchemaKind, ...] = get_args(SchemaKind)
Schema = dict[str, Any]
_DRAFT = "http://json-schema.org/draft-07/schema#"
"""The newest that editors' tools read without a word of warning."""
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_OTHER_WORDS = {"prefixItems": "items", "$defs": "definitions", **_LIMITS}
"""Those of a newer draft, and pydantic's own where it does not see that a value is a number."""
_NULL: Schema = {"type": "null"}
_OF_CONFIG = ("name", "pairs", "meta")


def schema_file(kind: SchemaKind) -> Path:
    """The schema as it is shipped."""
    return Path(__file__).with_name(f"{kind}.schema.json")


def schema_line(kind: SchemaKind) -> str:
    """First line of a file, a YAML job or TOML prompts, by which an editor on this machine finds the schema."""
    address = schema_file(kind).as_uri()
    return f"# yaml-language-server: $schema={address}" if kind == "job" else f"#:schema {address}"


def with_schema_line(kind: SchemaKind, text: str) -> str:
    """``text`` below that line, which replaces one that another place or machine gave it."""
    return f"{schema_line(kind)}\n{without_schema_line(text)}"


def without_schema_line(text: str) -> str:
    """``text`` without such a first line: what it says wherever it is."""
    return text.partition("\n")[2] if text.startswith(("# yaml-language-server:", "#:schema ")) else text


def schema_text(kind: SchemaKind) -> str:
    """The schema made anew, as the text of its file."""
    made = _job() if kind == "job" else {"title": "Prompts", **_root(_prompt_values())}
    return json.dumps({"$schema": _DRAFT, **made}, indent=1) + "\n"


def _job() -> Schema:
    """The frame of a job around its process; prompts may stand in `leco` itself."""
    made = _plain(JobConfig.model_json_schema(ref_template="#/definitions/{model}"))
    definitions = made["definitions"]
    definitions.pop("PromptPair")
    for section in (made, *definitions.values()):
        section["properties"] = {name: _or_nothing(value) for name, value in section["properties"].items()}
    values = made["properties"]
    definitions["SamplePrompt"] = {"anyOf": [{"type": "string"}, definitions["SamplePrompt"]]}
    leco = definitions["LecoConfig"]
    file = {"type": "string", "description": "Prompt file, relative to this file.", "minLength": 1}
    inline = _root(_prompt_values())["properties"]
    leco["properties"] = {"prompts_file": file, **inline, **leco["properties"]}
    for (*above, name), (allowed, wrong, _) in WINDOW_KEYS.items():
        owner = definitions["LoggingConfig"]["properties"] if above else values
        owner[name] = {"description": f"For ai-toolkit's web UI: {wrong}.", **allowed}
    process = {name: value for name, value in values.items() if name not in _OF_CONFIG}
    process = {"type": {"const": "leco"}, **process}
    one = {"type": "array", "minItems": 1, "maxItems": 1, "items": _table(process, ["type", "model", "leco"])}
    meta = {**values["meta"], "type": ["object", "null"], "additionalProperties": {"type": ["string", "number"]}}
    config = _table({"name": values["name"], "process": one}, ["name", "process"])
    root = _table({"job": {"const": "extension"}, "config": config, "meta": meta}, ["job", "config"])
    return {"title": "LECO job", **root, "definitions": definitions}


def _root(values: Schema) -> Schema:
    """The table at the top, whichever of the formats it is in."""
    prompt, slider = keys.PROMPT_ENTRY.known, keys.SLIDER_ENTRY.known
    in_prompts = _entry(values, "target_class", keys.SLIDER_IN_PROMPTS.known, prompt)
    in_targets = _entry(values, "target", prompt, slider)
    lists = {"prompts": _list(in_prompts), "targets": _list(in_targets)}
    flat = {name: value for name, value in values.items() if name in keys.ROOT_KEYS}
    below = _table({"targets": lists["targets"], **flat})
    return _table({**lists, "slider": below, **flat})


def _entry(values: Schema, mark: str, known: Collection[str], otherwise: Collection[str]) -> Schema:
    """An entry that reads the keys ``known`` where it has the key ``mark``, else those in ``otherwise``."""
    either = {name: value for name, value in values.items() if name in {*known, *otherwise}}
    names = [{"propertyNames": {"enum": sorted(group)}} for group in (known, otherwise)]
    return {**_table(either), "if": {"required": [mark]}, "then": names[0], "else": names[1]}


def _prompt_values() -> Schema:
    """Every key of a prompt table; none takes null."""
    values: Schema = {}
    for name, value in _plain(Values.model_json_schema())["properties"].items():
        options = [option for option in value.get("anyOf", ()) if option != _NULL]
        said = Values.model_fields[name].description or PromptPair.model_fields[name].description
        values[name] = {"description": said, **(options[0] if len(options) == 1 else {"anyOf": options})}
    return values


def _or_nothing(value: Schema) -> Schema:
    """A section or a list may be left empty, as in YAML's ``train:``, which counts as absent."""
    if "$ref" in value:
        return {
            **{name: item for name, item in value.items() if name != "$ref"},
            "anyOf": [{"$ref": value["$ref"]}, _NULL],
        }
    return {**value, "type": ["array", "null"]} if value.get("type") == "array" else value


def _list(items: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": items}


def _table(properties: Schema, required: Collection[str] = ()) -> Schema:
    needs = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, "additionalProperties": False, **needs}


def _plain(made: Any) -> Any:
    """A schema of pydantic's without titles, which editors show for descriptions, and in the older draft's words."""
    if isinstance(made, list):
        return [_plain(item) for item in made]
    if not isinstance(made, dict):
        return made
    kept = {name: item for name, item in made.items() if not (name == "title" and isinstance(item, str))}
    return {_OTHER_WORDS.get(name, name): _plain(item) for name, item in kept.items()}


if __name__ == "__main__":
    for one in KINDS:
        schema_file(one).write_text(schema_text(one), "utf-8")
