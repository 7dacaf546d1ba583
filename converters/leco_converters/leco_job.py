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


def process_of(plan: Plan, kind: Node, values: dict[str, Node]) -> dict[str, Node]:
    """A process with these settings by option, each section with the comments that the source has there."""
    process = {"type": kind}
    for option, node in values.items():
        section, _, key = option.rpartition(".")
        if section:
            process.setdefault(section, plan.settings.tables.get(section, Node({})).like({})).table[key] = node
        else:
            process[option] = node
    return process


def leco_job(plan: Plan, name: str, model: str, prompts: Node) -> tuple[Node, list[Node]]:
    """Return the job, and what is left out of it.

    ``prompts`` is a table for its `leco` section: ``prompts_file``, or the prompts themselves.
    """
    values, tables, empty = dict(plan.settings.values), plan.settings.tables, Node({})
    if not tables:
        values = {option: Node(default_of(option)) for option in WRITTEN}
    if model and "model.name_or_path" not in values:
        values = {"model.name_or_path": Node(model), **values}
    old, config, named = (tables.get(key, empty) for key in ("", "config", "prompts_file"))
    lines = {"name": values.pop("name", Node(name))}
    process = process_of(plan, old.table.get("type", empty).like("leco"), values)
    leco = process.pop("leco", tables.get("leco", empty).like({}))
    leco.table.update({key: named.like(node.value) if key == "prompts_file" else node
                       for key, node in prompts.table.items()})  # fmt: skip
    lines["process"] = config.table.get("process", empty).like([old.like({**process, "leco": leco})])
    root = plan.source.root.table if plan.origin in ("ai-toolkit", "leco-job") else {}
    job = {"job": root.get("job", Node("")).like("extension"), "config": config.like(lines)}
    sections = [node for key, node in root.items() if key not in ("job", "config", "meta")]
    left = [(node, "there is no such section here") for node in sections]
    if "meta" in root:
        meta = root["meta"].table
        kept = {key: node for key, node in meta.items() if type(node.value) in (str, int, float)}
        left += [(node, "only texts and numbers can stand here") for key, node in meta.items() if key not in kept]
        job["meta"] = root["meta"].like(kept)
    for node, why in left:
        plan.report.note("lost", node, why, LEFT_OUT)
    return Node(job), [*plan.settings.report.left, *(node for node, _ in left)]
