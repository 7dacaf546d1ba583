"""Settings of any source to a job file of the process `leco`."""

from __future__ import annotations

from pydantic import BaseModel

from leco_converters.request import Plan
from leco_converters.settings import (
    ALIASES,
    CONVOLUTIONS,
    HARMLESS,
    SEEN_IN_THE_MODEL,
    SPELLINGS,
    Outcome,
    refusal,
    sections,
)
from leco_converters.tree import Node, plain
from leco_plugin.config.schema import JobConfig

_OF_PROCESS = frozenset(JobConfig.model_fields) - {"name", "pairs", "meta"}
_LEFT_OUT = "left out, kept as a comment"


def leco_job(plan: Plan, name: str, model: str, prompts: Node) -> tuple[Node, list[Outcome]]:
    """Return the job and what became of each setting that it cannot hold as it was.

    ``prompts`` is a table for its `leco` section: ``prompts_file``, or the prompts themselves.
    """
    builder = _Builder(plan)
    old = plan.job or Node({"config": Node({"name": Node(name), "process": Node([Node({"leco": Node({})})])})})
    config = old.table["config"]
    process = builder.process(config)
    options = process.setdefault("leco", Node({}))
    named = options.table.pop("prompts_file", None)
    new = {
        name: named.like(node.value) if named and name == "prompts_file" else node
        for name, node in prompts.table.items()
    }
    process["leco"] = options.like({**options.table, **new})
    if "name_or_path" not in process.get("model", Node({})).table and model:
        process["model"] = Node({"name_or_path": Node(model), **process.get("model", Node({})).table})
    new_config: dict[str, Node] = {"name": config.table.get("name", Node(name))}
    new_config |= {name: node for name, node in builder.left.items() if not name.startswith("process.")}
    old_list = config.table["process"]
    new_config["process"] = old_list.like([old_list.items[0].like(process)])
    root = {"job": old.table.get("job", Node("extension")).like("extension"), "config": config.like(new_config)}
    for key, node in old.table.items():
        if key == "meta":
            root[key] = builder.meta(node)
        elif key not in root:
            root[key] = builder.omit(node, "there is no such section here")
    return Node(root), builder.outcomes


class _Builder:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.outcomes: list[Outcome] = []
        self.left: dict[str, Node] = {}
        self._sections = sections()

    def process(self, config: Node) -> dict[str, Node]:
        """Return the settings of the one process, and those of the job that stand in the process here."""
        old = config.table["process"].items[0]
        kind = old.table.get("type", Node("leco")).like("leco")
        process: dict[str, Node] = {"type": kind}
        for name, node in config.table.items():
            if name in _OF_PROCESS and name not in self._sections:
                process[name] = self._single(name, node)
            elif name not in ("name", "process"):
                self.left[name] = self.omit(node, "there is no such setting here")
        for name, node in old.table.items():
            if name == "type":
                continue
            if name in self._sections and isinstance(node.value, dict):
                self._section(name, node, process)
            elif name in _OF_PROCESS and name not in self._sections:
                process[name] = self._single(name, node)
            elif name == "logging" and self._all_harmless(name, node):
                process[name] = self.omit(node, "it says what is so anyway", lost=False)
            else:
                process[name] = self.omit(node, "there is no such section here")
        return process

    def meta(self, node: Node) -> Node:
        """Keep what the job's `meta` can hold: single values."""
        table = {}
        for name, child in node.table.items():
            single = isinstance(child.value, (str, int, float)) and not isinstance(child.value, bool)
            table[name] = child if single else self.omit(child, "only texts and numbers can stand here")
        return node.like(table)

    def omit(self, node: Node, why: str, *, lost: bool = True) -> Node:
        """Note that a setting is not carried, and return it as a comment."""
        self.outcomes.append(Outcome(node, "lost" if lost else "changed", why, _LEFT_OUT))
        return node.omitted()

    def _single(self, name: str, node: Node) -> Node:
        why = refusal(JobConfig, name, plain(node))
        return self.omit(node, why) if why else node

    def _section(self, section: str, node: Node, process: dict[str, Node]) -> None:
        here = process[section] = node.like(process[section].table if section in process else {})
        for name, child in node.table.items():
            if child.left_out:
                here.table[name] = child
                continue
            if (section, name) == ("train", "batch_size"):
                done = "is a default of the prompts here"
                self.outcomes.append(Outcome(child, "changed", "batch_size of the run", done))
                here.table[name] = child.omitted()
                continue
            new_section, new_name = ALIASES.get((section, name), (section, name))
            result = self._setting((section, name), (new_section, new_name), child)
            home = here if result.left_out or new_section == section else process.setdefault(new_section, Node({}))
            home.table[name if result.left_out else new_name] = result

    def _setting(self, old: tuple[str, str], new: tuple[str, str], node: Node) -> Node:
        """Return one setting as it is written here, or as a comment."""
        model: type[BaseModel] = self._sections[new[0]]
        value = plain(node)
        why = refusal(model, new[1], value)
        if not why:
            return node
        spelled = SPELLINGS.get(new, {}).get(str(value).lower())
        if spelled:
            if str(value).lower() in CONVOLUTIONS and "conv" not in model.model_fields:
                was = f"{value} trains convolutions too"
                self.outcomes.append(Outcome(node, "lost", was, "written as lora, which trains linear layers"))
            return node.like(spelled)
        if isinstance(value, str) and not refusal(model, new[1], value.lower()):
            return node.like(value.lower())
        if old in HARMLESS and HARMLESS[old] == value:
            return self.omit(node, f"{str(value).lower()} is so anyway", lost=False)
        if old[0] == "model" and old[1] in SEEN_IN_THE_MODEL:
            return self.omit(node, "the trainer sees it in the model itself", lost=False)
        return self.omit(node, why)

    def _all_harmless(self, section: str, node: Node) -> bool:
        table = node.table
        return bool(table) and all(HARMLESS.get((section, name)) == plain(child) for name, child in table.items())
