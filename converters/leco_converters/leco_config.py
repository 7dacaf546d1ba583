"""LECO's own config files: their prompts, and their settings under the names of an ai-toolkit job."""

from __future__ import annotations

from leco_converters.host_jobs import ReadPrompts, prompts_beside
from leco_converters.read import read_source
from leco_converters.report import Report
from leco_converters.request import Plan
from leco_converters.tree import Node, Source
from leco_plugin.config.findings import key_text
from leco_plugin.errors import ConfigError, Problem, Where

_NAMES = {
    ("pretrained_model", "name_or_path"): ("model", "name_or_path"),
    ("pretrained_model", "v2"): ("model", "is_v2"),
    ("pretrained_model", "v_pred"): ("model", "is_v_pred"),
    ("pretrained_model", "clip_skip"): ("model", "clip_skip"),
    ("network", "rank"): ("network", "linear"),
    ("network", "alpha"): ("network", "linear_alpha"),
    ("train", "precision"): ("train", "dtype"),
    ("train", "iterations"): ("train", "steps"),
    ("save", "name"): ("", "name"),
    ("save", "path"): ("", "training_folder"),
    ("save", "per_steps"): ("save", "save_every"),
    ("save", "precision"): ("save", "dtype"),
    ("other", "use_xformers"): ("train", "xformers"),
}


def plan_leco_config(source: Source, read_prompts: ReadPrompts) -> Plan:
    """Take settings and the prompt file out of a LECO config; raises ConfigError where there are no prompts."""
    report = Report()
    node = source.root.table.get("prompts_file")
    if node is None or not isinstance(node.value, str) or not node.value:
        where = Where(source.path, node.line if node else None, key_text(node.key) if node else "")
        raise ConfigError(Problem(where, "there is no prompt file", "write prompts_file: prompts.yaml"))
    prompt_source = read_source(prompts_beside(source, node))
    prompts = read_prompts(prompt_source, report)
    return Plan("leco-config", source, prompts, prompt_source, _job(source), report)


def _job(source: Source) -> Node:
    config: dict[str, Node] = {}
    process: dict[str, Node] = {"type": Node("slider")}
    for section, node in source.root.table.items():
        if section == "prompts_file":
            continue
        kept: dict[str, dict[str, Node]] = {}
        for name, child in node.table.items():
            new_section, new_name = _NAMES.get((section, name), (section, name))
            if new_section:
                kept.setdefault(new_section, {})[new_name] = child
            else:
                config[new_name] = child
        if not node.table:
            process[section] = node
        for index, (new_section, table) in enumerate(kept.items()):
            present = process.get(new_section)
            if present is not None:
                present.table.update(table)
            else:
                process[new_section] = node.like(table) if not index else node.beside(table)
    network = process.get("network", Node({})).table
    if "type" in network and network["type"].value == "c3lier":
        # one rank and alpha for linear layers and convolutions there
        for name, old in (("conv", "linear"), ("conv_alpha", "linear_alpha")):
            if old in network:
                network.setdefault(name, network[old].beside(network[old].value))
    process["leco"] = Node({"prompts_file": source.root.table["prompts_file"].omitted()})
    return Node({"job": Node("train"), "config": Node({**config, "process": Node([Node(process)])})})
