"""Jobs of ai-toolkit whose processes train sliders: their prompts and their settings."""

from __future__ import annotations

from leco_converters.foreign import CONCEPT_SLIDER, SLIDER, TABLE
from leco_converters.prompt_tables import entries, keep_texts, leave_out, merged, preserve_anchors
from leco_converters.report import Report
from leco_converters.request import Plan
from leco_converters.settings import foreign_settings
from leco_converters.tree import Node, Source, plain

_KINDS = TABLE["slider"]


def plan_host_job(source: Source) -> Plan:
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
            steps = process.table.get("train", Node({})).table.get("steps", Node(1000)).value
            if isinstance(steps, int) and len(items) > steps:
                report.say("trimmed", child, steps=steps, count=len(items))
        elif name == "resolutions":
            table[name] = _sizes(child, report)
        elif name == "anchors":
            table[name] = child
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
    target: dict[str, Node] = {"target_class": section.beside("")}
    top: dict[str, Node] = {**_batch(process), **_picture_sizes(process, report)}
    for name, child in section.table.items():
        if name in names.values():
            target[name] = child
        elif name == "anchor_class":
            top[name] = child
        elif name != "anchor_strength" or plain(child) != 1:
            leave_out(child, name, report)
    if "guidance_scale" not in target:
        target["guidance_scale"] = section.beside(3.0)
        report.say("strength_of_3", section)
    else:
        report.say("strength", target["guidance_scale"])
    target["neutral"] = target["target_class"].beside(target["target_class"].value)
    report.say("pictures", section)
    return Node({**top, "targets": section.beside([section.like(target)])})


def _picture_sizes(process: Node, report: Report) -> dict[str, Node]:
    """Take the sizes of the pictures that a concept slider is trained at."""
    found: dict[int, Node] = {}
    for node in (dataset.at("resolution") for dataset in process.at("datasets").items):
        for size in node.items or [node]:
            if isinstance(size.value, int) and not isinstance(size.value, bool):
                found.setdefault(size.value, size)
    if not found:
        return {}
    sizes = [size.beside([size.beside(side), size.beside(side)]) for side, size in found.items()]
    first = next(iter(found.values()))
    report.say("picture_sizes", first)
    return {"resolutions": first.beside(sizes)}


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
