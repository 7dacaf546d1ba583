"""Prompts and settings of any source to a job file of the process `leco`."""

from __future__ import annotations

from leco_converters.request import Plan
from leco_converters.settings import LEFT_OUT, SECTIONS, Settings
from leco_converters.tree import Node
from leco_plugin.config.schema import JobConfig

WRITTEN = (
    "training_folder", "network.type", "network.linear", "network.linear_alpha", "train.steps", "train.lr",
    "train.optimizer", "train.lr_scheduler", "train.noise_scheduler", "train.dtype", "train.gradient_checkpointing",
    "save.dtype",
)  # fmt: skip
"""Settings that are written out where the source has none, since ai-toolkit's defaults are others."""


def default_of(option: str) -> object:
    """Return our default of an option, as a file says it."""
    section, _, key = option.rpartition(".")
    value = SECTIONS.get(section, JobConfig).model_fields[key].default
    return value.as_posix() if option == "training_folder" else value


def leco_job(plan: Plan, name: str, model: str, prompts: Node) -> Node:
    """Return the job; ``prompts`` is a table for its `leco` section: ``prompts_file``, or the prompts themselves."""
    settings = plan.settings or Settings({option: Node(default_of(option)) for option in WRITTEN}, {"": Node({})})
    values = dict(settings.values)
    named = values.pop("leco.prompts_file", None)
    process: dict[str, Node] = {"type": settings.tables[""].table.get("type", Node("leco")).like("leco")}
    for option, node in values.items():
        section, _, key = option.partition(".")
        if not key:
            if option != "name":
                process[option] = node
            continue
        table = process.setdefault(section, settings.tables.get(section, Node({})).like({}))
        table.table[key] = node
    leco = process.pop("leco", settings.tables.get("leco", Node({})).like({}))
    kept = {key: named.like(node.value) if named and key == "prompts_file" else node
            for key, node in prompts.table.items()}  # fmt: skip
    process["leco"] = leco.like({**leco.table, **kept})
    if settings.get("model.name_or_path") is None and model:
        old = process.pop("model", Node({}))
        process = {
            "type": process.pop("type"),
            "model": old.like({"name_or_path": Node(model), **old.table}),
            **process,
        }
    config = settings.tables.get("config", Node({}))
    listed = config.table.get("process", Node([]))
    lines = {"name": values.get("name", Node(name)), "process": listed.like([settings.tables[""].like(process)])}
    return _root(plan, config.like(lines))


def _root(plan: Plan, config: Node) -> Node:
    old = plan.source.root.table if plan.origin in ("ai-toolkit", "leco-job") else {}
    root = {"job": old.get("job", Node("extension")).like("extension"), "config": config}
    for key, node in old.items():
        if key == "meta" and isinstance(node.value, dict):
            root[key] = node.like({name: _single(plan, child) for name, child in node.table.items()})
        elif key not in root:
            root[key] = _omit(plan, node, "there is no such section here")
    return Node(root)


def _single(plan: Plan, node: Node) -> Node:
    if isinstance(node.value, (str, int, float)) and not isinstance(node.value, bool):
        return node
    return _omit(plan, node, "only texts and numbers can stand here")


def _omit(plan: Plan, node: Node, why: str) -> Node:
    plan.report.note("lost", plan.source, node, why, LEFT_OUT)
    return node.omitted()
