"""Takes prompts and settings out of a file, whose kind `leco_plugin.config.recognise` says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from leco_converters.foreign import LECO
from leco_converters.host_jobs import plan_host_job
from leco_converters.prompt_tables import TABLES, entries, joined, keep_texts, leave_out, preserve_anchors, top
from leco_converters.read import read_source
from leco_converters.report import Report
from leco_converters.request import Plan
from leco_converters.settings import foreign_settings, own_settings
from leco_converters.tree import Node, Source, plain
from leco_plugin.config.build import load_job
from leco_plugin.config.files import TEXT_FORMATS
from leco_plugin.config.prompt_keys import ROOT_KEYS
from leco_plugin.config.recognise import Kind, expect, recognise_tree
from leco_plugin.config.schema import LecoConfig
from leco_plugin.errors import ConfigError, Problem, Where

_FIX = "a job, a prompt file, or a list of prompts as in '- target: ...' can be converted"
_TAKEN = (Kind.JOB, Kind.PROMPTS, Kind.PROMPT_LIST, Kind.LECO_CONFIG, Kind.AI_TOOLKIT_JOB)
_IGNORED = ("guidance", "rank")
"""Keys in prompt files of Concept Sliders, whose trainer does not read them."""


def understand(path: Path) -> Plan:
    """Read a file and say what it holds; raises ConfigError where it holds no prompts."""
    if path.suffix.lower() not in TEXT_FORMATS:
        expect(path, *_TAKEN)
    source = read_source(path)
    kind = recognise_tree(path, plain(source.root)).expected(*_TAKEN).kind
    if kind is Kind.JOB:
        return _our_job(source)
    if kind is Kind.AI_TOOLKIT_JOB:
        return plan_host_job(source)
    if kind is Kind.LECO_CONFIG:
        return _leco_config(source)
    report = Report(path)
    return Plan("prompts", source, prompt_file(source, report), source, report)


def prompt_file(source: Source, report: Report) -> Node:
    """Return the prompts of a file that holds nothing else; raises ConfigError."""
    root = source.root
    if source.path.suffix.lower() == ".toml":
        return root
    if isinstance(root.value, list):
        root = _list(root, report)
    if root.table.keys().isdisjoint({*TABLES, "slider", "target", "target_class"}):
        found = "there are no prompts in this file" if root.value is None or root.table else "this is no settings file"
        raise ConfigError(Problem(Where(source.path), found, _FIX))
    keep_texts(root, report)
    if isinstance(plain(root.table.get("slider")), dict):
        slider = root.table["slider"]
        for name, child in root.table.items():
            if child is not slider:
                leave_out(child, name, report, refuse_typos=True)
        root = root.like({"slider": slider.like(_flat(slider, report))})
    else:
        root = root.like(_flat(root, report))
    preserve_anchors([root], source.path.parent, report)
    return root


def _flat(root: Node, report: Report) -> dict[str, Node]:
    """Return the table without the keys that only ai-toolkit knows."""
    table: dict[str, Node] = {}
    for name, child in root.table.items():
        if name in TABLES and isinstance(child.value, list):
            known = ROOT_KEYS - {*TABLES, "slider"}
            table[name] = child.like(entries(child, known, report, refuse_typos=True))
        elif name in ROOT_KEYS or name == "anchors":
            table[name] = child
        else:
            leave_out(child, name, report, refuse_typos=True)
    return table


def _list(root: Node, report: Report) -> Node:
    """Wrap a bare list of prompts, or of slider targets."""
    for item in root.items:
        if not isinstance(item.value, dict):
            raise item.refuse(f"must be a table of keys, not {str(plain(item))[:40]!a}", "write '- target: ...'")
    ignored = [item.table[name] for item in root.items for name in _IGNORED if name in item.table]
    if ignored:
        report.say("not_read", ignored[0])
        for item in root.items:
            item.value = {name: child for name, child in item.table.items() if name not in _IGNORED}
    is_sliders = bool(root.items) and all("target_class" in item.table for item in root.items)
    return Node({"targets" if is_sliders else "prompts": root})


def _leco_config(source: Source) -> Plan:
    """Take settings and the prompt file out of a LECO config; raises ConfigError where there are no prompts."""
    report = Report(source.path)
    node = source.root.table.get("prompts_file", Node(None, path=source.path))
    name = node.value if isinstance(node.value, str) else ""
    if not name:
        raise node.refuse("there is no prompt file", "write prompts_file: prompts.yaml")
    # beside it, or from the folder that the command runs in
    found = [folder / name for folder in (source.path.parent, Path.cwd()) if (folder / name).is_file()]
    if not found:
        raise node.refuse(f"there is no file '{name}'", "it is relative to this file, or to the current folder")
    prompt_source = read_source(found[0])
    settings = foreign_settings(LECO, source.root, skip="prompts_file")
    settings.tables["prompts_file"] = node
    return Plan("leco-config", source, prompt_file(prompt_source, report), prompt_source, report, settings, LECO)


def _our_job(source: Source) -> Plan:
    report = Report(source.path)
    load_job(source.path)
    config = source.root.table["config"]
    process = config.table["process"].items[0]
    leco = process.table["leco"]
    settings = own_settings(config, process)
    settings.meta = source.root.table.get("meta")
    preserve = settings.values.pop("leco.preserve", None)
    prompt_source = source
    if "prompts_file" in leco.table:
        settings.tables["prompts_file"] = leco.table["prompts_file"]
        prompt_source = read_source(source.path.parent / str(leco.table["prompts_file"].value))
        prompts = prompt_file(prompt_source, report)
        # its place is none in the prompt file
        preserve = preserve and replace(preserve, key=(), line=None)
    else:
        prompts = leco.beside({name: node for name, node in leco.table.items() if name not in LecoConfig.model_fields})
    if preserve is not None:
        # a prompt file can hold it too
        holder = top(prompts)
        own = [holder.table["preserve"]] if "preserve" in holder.table else []
        holder.value = {**holder.table, "preserve": joined([preserve, *own])}
    return Plan("leco-job", source, prompts, prompt_source, report, settings)
