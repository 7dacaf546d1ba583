"""Prompts and settings of any source to a job file of the process `leco`."""

from __future__ import annotations

from leco_converters.report import LEFT_OUT
from leco_converters.request import Plan
from leco_converters.settings import SECTIONS
from leco_converters.tree import Node
from leco_plugin.config.schema import JobConfig

WRITTEN = (
    "training_folder", "network.type", "network.linear", "network.linear_alpha", "train.steps", "train.lr",
    "train.optimizer", "train.lr_scheduler", "train.noise_scheduler", "train.dtype", "train.gradient_checkpointing",
    "save.dtype",
)  # fmt: skip
"""Settings that are written out where the source has none, since ai-toolkit's defaults are others."""


def default_of(option: str) -> object:
    """Return our default of an option, as a file says it; None where there is no such option."""
    section, _, key = option.rpartition(".")
    field = SECTIONS.get(section, JobConfig).model_fields.get(key)
    return "output" if option == "training_folder" else field and field.default


def leco_job(plan: Plan, name: str, model: str, prompts: Node) -> tuple[Node, list[Node]]:
    """Return the job, and what is left out of it.

    ``prompts`` is a table for its `leco` section: ``prompts_file``, or the prompts themselves.
    """
    values, tables, empty = dict(plan.settings.values), plan.settings.tables, Node({})
    if not tables:
        values = {option: Node(default_of(option)) for option in WRITTEN}
    if model and "model.name_or_path" not in values:
        values = {"model.name_or_path": Node(model), **values}
    old = tables.get("", empty)
    process: dict[str, Node] = {"type": old.table.get("type", empty).like("leco")}
    for option, node in values.items():
        section, _, key = option.partition(".")
        if key:
            process.setdefault(section, tables.get(section, empty).like({})).table[key] = node
        elif option != "name":
            process[option] = node
    leco = process.pop("leco", tables.get("leco", empty).like({}))
    named = tables.get("prompts_file", empty)
    for key, node in prompts.table.items():
        leco.table[key] = named.like(node.value) if key == "prompts_file" else node
    process["leco"] = leco
    config = tables.get("config", empty)
    lines = {
        "name": values.get("name", Node(name)),
        "process": config.table.get("process", empty).like([old.like(process)]),
    }
    root, left = _root(plan, config.like(lines))
    return root, [*plan.settings.report.left, *left]


def _root(plan: Plan, config: Node) -> tuple[Node, list[Node]]:
    old = plan.source.root.table if plan.origin in ("ai-toolkit", "leco-job") else {}
    left = {
        "there is no such section here": [node for name, node in old.items() if name not in ("job", "config", "meta")]
    }
    root = {"job": old.get("job", Node("")).like("extension"), "config": config}
    if "meta" in old:
        kept = {name: node for name, node in old["meta"].table.items()
                if isinstance(node.value, (str, int, float)) and not isinstance(node.value, bool)}  # fmt: skip
        left["only texts and numbers can stand here"] = [
            node for name, node in old["meta"].table.items() if name not in kept
        ]
        root["meta"] = old["meta"].like(kept)
    for why, nodes in left.items():
        for node in nodes:
            plan.report.note("lost", node, why, LEFT_OUT)
    return Node(root), [node for nodes in left.values() for node in nodes]
