"""Recognises what a file is, and takes its prompts and the settings of its run."""

from __future__ import annotations

from pathlib import Path

from leco_converters.anchors import preserve_anchors
from leco_converters.host_jobs import plan_job
from leco_converters.leco_config import plan_leco_config
from leco_converters.prompt_tables import TABLES, entries, keep_texts, leave_out
from leco_converters.read import read_source
from leco_converters.report import Report
from leco_converters.request import Plan
from leco_converters.tree import Node, Source, plain
from leco_plugin.config.prompt_keys import ROOT_KEYS
from leco_plugin.errors import ConfigError, Problem, Where

_FIX = "a job, a prompt file, or a list of prompts as in '- target: ...' can be converted"


def understand(path: Path) -> Plan:
    """Read a file and say what it holds; raises ConfigError where it holds no prompts."""
    source = read_source(path)
    root = source.root
    if isinstance(root.value, dict) and not root.value.keys().isdisjoint({"job", "config"}):
        return plan_job(source, prompt_file)
    if "pretrained_model" in root.table or ("prompts_file" in root.table and not _has_prompts(root)):
        return plan_leco_config(source, prompt_file)
    report = Report()
    prompts = prompt_file(source, report)
    return Plan("prompts", source, prompts, source, report=report)


def prompt_file(source: Source, report: Report) -> Node:
    """Return the prompts of a file that holds nothing else; raises ConfigError."""
    root = source.root
    if source.path.suffix.lower() == ".toml":
        return root
    if isinstance(root.value, list):
        root = _list(root, source)
    if not _has_prompts(root):
        where = Where(source.path)
        found = "there are no prompts in this file" if root.value is None or root.table else "this is no settings file"
        raise ConfigError(Problem(where, found, _FIX))
    keep_texts(root, source, report)
    if isinstance(root.table.get("slider", root).value, dict) and "slider" in root.table:
        table = {name: child for name, child in root.table.items() if name != "slider"}
        left = {name: leave_out(child, name, source, report, refuse_typos=True) for name, child in table.items()}
        slider = root.table["slider"]
        root = root.like({**left, "slider": slider.like(_flat(slider, source, report))})
    else:
        root = root.like(_flat(root, source, report))
    preserve_anchors([root], source, report)
    return root


def _flat(root: Node, source: Source, report: Report) -> dict[str, Node]:
    """Return the table without the keys that only ai-toolkit knows."""
    table: dict[str, Node] = {}
    for name, child in root.table.items():
        if name in TABLES and isinstance(child.value, list):
            items = entries(child, ROOT_KEYS - {*TABLES, "slider"}, source, report, refuse_typos=True)
            table[name] = child.like(items)
        else:
            known = name in ROOT_KEYS or name == "anchors"
            table[name] = child if known else leave_out(child, name, source, report, refuse_typos=True)
    return table


def _list(root: Node, source: Source) -> Node:
    """Wrap a bare list of prompts, or of slider targets."""
    for item in root.items:
        if not isinstance(item.value, dict):
            found = str(plain(item))[:40]
            where = Where(source.path, item.line, f"[{item.key[-1]}]")
            raise ConfigError(Problem(where, f"must be a table of keys, not {found!a}", "write '- target: ...'"))
    is_sliders = bool(root.items) and all("target_class" in item.table for item in root.items)
    return Node({"targets" if is_sliders else "prompts": root})


def _has_prompts(root: Node) -> bool:
    return not root.table.keys().isdisjoint({*TABLES, "slider", "target", "target_class"})
