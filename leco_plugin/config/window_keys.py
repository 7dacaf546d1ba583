"""What the pages of ai-toolkit's web UI look for in a job, and what means nothing to LECO: taken in that form alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leco_plugin.config.findings import Findings, Key, describe

Schema = dict[str, Any]
WINDOW_KEYS: Mapping[tuple[str, ...], tuple[Schema, str, str]] = {
    ("datasets",): (
        {"type": ["array", "null"], "maxItems": 0},
        "must be empty, for LECO trains from prompts alone",
        "remove it, or write datasets: []",
    ),
    ("logging", "log_every"): (
        {"const": 1},
        "must be 1, as every step is recorded",
        "write log_every: 1, or remove it",
    ),
    ("logging", "use_ui_logger"): (
        {"type": "boolean"},
        "must be true or false, and changes nothing in the built-in host",
        "write use_ui_logger: true, or remove it",
    ),
}
"""By place in the process: the values that are taken, and what is said of any other, with the fix."""
EMPTY: Mapping[str, object] = {
    "datasets": [], "logging.log_every": 1, "logging.use_ui_logger": True, "sample.samples": []
}  # fmt: skip
"""What a job for ai-toolkit has, by dotted option, so that its pages in the web UI work."""


def drop_window_keys(process: dict[str, object], above: Key, findings: Findings) -> None:
    """Take these keys out of a job's process; one that asks for something is an error."""
    for place, (schema, wrong, fix) in WINDOW_KEYS.items():
        *sections, name = place
        table: Any = process
        for section in sections:
            table = table.get(section) if isinstance(table, dict) else None
        if not isinstance(table, dict) or name not in table:
            continue
        value = table.pop(name)
        if not _allowed(value, schema):
            findings.error((*above, *place), f"{wrong}, not {describe(value)}", fix)


def _allowed(value: object, schema: Schema) -> bool:
    if "const" in schema:
        return value == schema["const"] and not isinstance(value, bool)
    return isinstance(value, bool) if schema["type"] == "boolean" else value in ([], None)
