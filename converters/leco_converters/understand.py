"""Takes prompts and settings out of a file, whose kind `leco_plugin.config.recognise` says.

Of jobs of ai-toolkit, out of the processes that train sliders.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from leco_converters.foreign import CONCEPT_SLIDER, LECO, SLIDER, TABLE
from leco_converters.prompt_tables import TABLES, entries, joined, keep_texts, leave_out, merged, preserve_anchors, top
from leco_converters.read import read_source
from leco_converters.report import Report
from leco_converters.settings import Plan, foreign_settings, own_settings
from leco_converters.tree import Node, Source, plain
from leco_plugin.config.build import load_job
from leco_plugin.config.files import TEXT_FORMATS
from leco_plugin.config.findings import refusal
from leco_plugin.config.prompt_keys import ROOT_KEYS
from leco_plugin.config.recognise import Kind, expect, recognise_tree
from leco_plugin.config.schema import LecoConfig

_FIX = "a job, a prompt file, or a list of prompts as in '- target: ...' can be converted"
_TAKEN = (Kind.JOB, Kind.PROMPTS, Kind.PROMPT_LIST, Kind.LECO_CONFIG, Kind.AI_TOOLKIT_JOB)
_IGNORED = ("guidance", "rank")
"""Keys in prompt files of Concept Sliders, whose trainer does not read them."""
_KINDS = TABLE["slider"]


def understand(path: Path) -> Plan:
    """Read a file and say what it holds; raises ConfigError where it holds no prompts."""
    if path.suffix.lower() not in TEXT_FORMATS:
        expect(path, *_TAKEN)
    source = read_source(path)
    kind = recognise_tree(path, plain(source.root)).expected(*_TAKEN).kind
    if kind is Kind.JOB:
        return _our_job(source)
    if kind is Kind.AI_TOOLKIT_JOB:
        return _host_job(source)
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
        raise refusal(source.path, found, _FIX)
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
        table = top(prompts).table
        table["preserve"] = joined([preserve, *(table[name] for name in ("preserve",) if name in table)])
    return Plan("leco-job", source, prompts, prompt_source, report, settings)


def _host_job(source: Source) -> Plan:
    """Take prompts and settings out of a job; raises ConfigError where it trains no slider."""
    config, report = _table(source.root, "config"), Report(source.path)
    _fill_name(source.root, config.at("name").value, report)
    roots: list[Node] = []
    used: list[Node] = []
    listed = config.table["process"]
    for process in listed.items:
        kind = plain(process.at("type"))
        if kind in _KINDS["types"]:
            roots.append((_concept if kind == "concept_slider" else _slider)(process, report))
            used.append(process)
        else:
            what = "needs pictures" if kind in _KINDS["with_pictures"] else "is no slider"
            report.say("no_slider", process, kind=kind, what=what)
    if not roots:
        kinds = ", ".join(repr(plain(process.at("type"))) for process in listed.items)
        raise listed.refuse(f"no process of this job trains a slider from prompts, but {kinds}", "")
    first, *others = used
    for process in others:
        report.say("joined", process)
        for name, section in process.table.items():
            if name not in ("slider", "type") and plain(section) != plain(first.at(name)):
                report.say("first_counts", section, name=name)
    preserve_anchors(roots, source.path.parent, report)
    rows = CONCEPT_SLIDER if plain(first.at("type")) == "concept_slider" else SLIDER
    settings = foreign_settings(rows, first, config, skip="slider")
    settings.meta = source.root.table.get("meta")
    return Plan("ai-toolkit", source, merged(roots), source, report, settings, rows)


def _slider(process: Node, report: Report) -> Node:
    """Return the targets of a `slider` process, with what its trainer fixes written out."""
    section = _table(process, "slider")
    if not isinstance(section.at("targets").value, list):
        raise section.refuse("there is no list of targets", "write 'targets:' and '- target_class: ...'")
    keep_texts(section, report)
    table = {"guidance_scale": section.beside(1.0), "neutral": section.beside(""), **_batch(process)}
    report.say("fixed", section)
    report.say("walk", section)
    for name, child in section.table.items():
        if name == "targets":
            items = entries(child, _KINDS["keys"], report)
            for item in items:
                item.table.setdefault("target_class", item.beside(""))
            table["targets"] = child.like(items)
            steps = process.at("train").table.get("steps", Node(1000)).value
            if isinstance(steps, int) and len(items) > steps:
                report.say("trimmed", child, steps=steps, count=len(items))
        elif name in ("resolutions", "anchors"):
            table[name] = child if name == "anchors" else _sizes(child, report)
        else:
            leave_out(child, name, report)
    return Node(table)


def _batch(process: Node) -> dict[str, Node]:
    batch = process.at("train", "batch_size")
    return {} if batch.value is None else {"batch_size": batch.beside(batch.value)}


def _concept(process: Node, report: Report) -> Node:
    """Return the one target of a `concept_slider` process, which starts from its class."""
    section, names = _table(process, "slider"), _KINDS["concept"]
    section.value = {names.get(name, name): child for name, child in section.table.items()}
    keep_texts(section, report)
    target = {"target_class": section.beside("")}
    shared = {**_batch(process), **_picture_sizes(process, report)}
    for name, child in section.table.items():
        if name in names.values() or name == "anchor_class":
            (target if name in names.values() else shared)[name] = child
        elif name != "anchor_strength" or plain(child) != 1:
            leave_out(child, name, report)
    report.say("strength" if "guidance_scale" in target else "strength_of_3", target.get("guidance_scale", section))
    target.setdefault("guidance_scale", section.beside(3.0))
    target["neutral"] = target["target_class"].beside(target["target_class"].value)
    report.say("pictures", section)
    return Node({**shared, "targets": section.beside([section.like(target)])})


def _picture_sizes(process: Node, report: Report) -> dict[str, Node]:
    """Take the sizes of the pictures that a concept slider is trained at."""
    written = [dataset.at("resolution") for dataset in process.at("datasets").items]
    found = [size for node in written for size in node.items or [node] if type(size.value) is int]
    if not found:
        return {}
    report.say("picture_sizes", found[0])
    sides = {size.value: size for size in reversed(found)}
    sizes = [size.beside([size.beside(size.value)] * 2) for size in reversed(sides.values())]
    return {"resolutions": found[0].beside(sizes)}


def _sizes(node: Node, report: Report) -> Node:
    """Keep the sizes in their order, which is height first whatever ai-toolkit's comment says."""
    fix = "write it as [[512, 512]]"
    for size in node.items:
        if len(size.items) != 2:
            raise size.refuse("every resolution is a list of two numbers", fix)
        if size.items[0].value != size.items[1].value:
            report.say("order", size)
    if not node.items:
        raise node.refuse("there is no list of resolutions", fix)
    return node


def _fill_name(node: Node, name: object, report: Report) -> None:
    """Put the job's name where `[name]` stands, as ai-toolkit does in every text."""
    if isinstance(node.value, str):
        if "${" in node.value:
            report.say("variable", node)
        if "[name]" in node.value and isinstance(name, str) and node.value != name:
            node.value, node.raw = node.value.replace("[name]", name), ""
            report.say("name", node)
    for child in node.children:
        _fill_name(child, name, report)


def _table(parent: Node, name: str) -> Node:
    node = parent.table.get(name, parent)
    if node is parent or not isinstance(node.value, dict):
        found = "is missing" if node is parent else "must be a table of keys"
        raise node.refuse(f"{name} {found}", f"write '{name}:' and its keys below it")
    return node
