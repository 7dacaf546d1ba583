"""Jobs of ai-toolkit whose processes train sliders: their prompts and their settings."""

from __future__ import annotations

from collections.abc import Iterator

from leco_converters.anchors import preserve_anchors
from leco_converters.foreign import CONCEPT_SLIDER, SLIDER
from leco_converters.prompt_tables import entries, keep_texts, leave_out, merged
from leco_converters.report import Report
from leco_converters.request import Plan
from leco_converters.settings import foreign_settings
from leco_converters.tree import Node, Source, children, plain
from leco_plugin.config.findings import key_text
from leco_plugin.errors import ConfigError, Problem, Where

_TARGET_KEYS = frozenset({"target_class", "positive", "negative", "multiplier", "weight"})
_SLIDERS = ("slider", "slider_old", "ultimate_slider_trainer", "concept_slider")
_WITH_PICTURES = ("concept_replacer", "image_reference_slider_trainer")
_CONCEPT_KEYS = {
    "target_class": "target_class",
    "positive_prompt": "positive",
    "negative_prompt": "negative",
    "guidance_strength": "guidance_scale",
}


def plan_host_job(source: Source) -> Plan:
    """Take prompts and settings out of a job; raises ConfigError where it trains no slider."""
    config = _table(source, source.root.table.get("config"), "config")
    processes = config.table["process"]
    for process in processes.items:
        _table(source, process, "process")
    report = Report()
    _fill_name(source, config, report)
    roots: list[Node] = []
    used: list[Node] = []
    for process in processes.items:
        kind = _type(process)
        if kind not in _SLIDERS:
            what = "needs pictures" if kind in _WITH_PICTURES else "is no slider"
            report.note("lost", source, process, f"a process of the type {kind!a} {what}", "left out")
            continue
        read = _concept if kind == "concept_slider" else _slider
        roots.append(read(source, process, report))
        used.append(process)
    if not roots:
        kinds = ", ".join(repr(_type(process)) for process in processes.items)
        raise _refuse(source, processes, f"no process of this job trains a slider from prompts, but {kinds}", "")
    _note_several(source, used, report)
    preserve_anchors(roots, source, report)
    rows = CONCEPT_SLIDER if _type(used[0]) == "concept_slider" else SLIDER
    settings = foreign_settings(rows, used[0], config, skip="slider")
    settings.meta = source.root.table.get("meta")
    return Plan("ai-toolkit", source, merged(roots), source, settings, rows, report)


def _slider(source: Source, process: Node, report: Report) -> Node:
    """Return the targets of a `slider` process, with what its trainer fixes written out."""
    section = _table(source, process.table.get("slider"), "slider", process)
    if not isinstance(section.table.get("targets", Node(None)).value, list):
        raise _refuse(source, section, "there is no list of targets", "write 'targets:' and '- target_class: ...'")
    keep_texts(section, source, report)
    table = {"guidance_scale": section.beside(1.0), "neutral": section.beside(""), **_batch(process)}
    was = "the trainer fixes the edit strength at 1 and the neutral prompt at ''"
    report.note("changed", source, section, was, "written out as guidance_scale and neutral")
    was = "the trainer's walk runs with the LoRA off"
    report.note("changed", source, section, was, "here it runs with the LoRA on")
    for name, child in section.table.items():
        if name == "targets":
            items = entries(child, _TARGET_KEYS, source, report)
            for item in items:
                item.table.setdefault("target_class", item.beside(""))
            table["targets"] = child.like(items)
            _note_trimmed(source, process, child, items, report)
        elif name == "resolutions":
            table[name] = _sizes(source, child, report)
        else:
            table[name] = child if name == "anchors" else leave_out(child, name, source, report)
    return Node(table)


def _batch(process: Node) -> dict[str, Node]:
    batch = process.table.get("train", Node({})).table.get("batch_size")
    return {} if batch is None or batch.value is None else {"batch_size": batch.beside(batch.value)}


def _concept(source: Source, process: Node, report: Report) -> Node:
    """Return the one target of a `concept_slider` process, which starts from its class."""
    section = _table(source, process.table.get("slider"), "slider", process)
    section.value = {_CONCEPT_KEYS.get(name, name): child for name, child in section.table.items()}
    keep_texts(section, source, report)
    target: dict[str, Node] = {"target_class": section.beside("")}
    top: dict[str, Node] = {**_batch(process), **_picture_sizes(source, process, report)}
    for name, child in section.table.items():
        if name in _CONCEPT_KEYS.values():
            target[name] = child
        elif name != "anchor_strength" or plain(child) != 1:
            top[name] = child if name == "anchor_class" else leave_out(child, name, source, report)
    if "guidance_scale" not in target:
        target["guidance_scale"] = section.beside(3.0)
        report.note("added", source, section, "guidance_strength is 3 there when it is not written", "written out")
    else:
        report.note("changed", source, target["guidance_scale"], "guidance_strength", "is guidance_scale here")
    target["neutral"] = target["target_class"].beside(target["target_class"].value)
    was = "a concept slider noises pictures of a data set"
    report.note("changed", source, section, was, "here it trains on what the model draws; neutral is the target_class")
    return Node({**top, "targets": section.beside([section.like(target)])})


def _picture_sizes(source: Source, process: Node, report: Report) -> dict[str, Node]:
    """Take the sizes of the pictures that a concept slider is trained at."""
    found: dict[int, Node] = {}
    listed = process.table.get("datasets", Node([]))
    for node in (dataset.table["resolution"] for dataset in listed.items if "resolution" in dataset.table):
        for size in node.items or [node]:
            if isinstance(size.value, int) and not isinstance(size.value, bool):
                found.setdefault(size.value, size)
    if not found:
        return {}
    sizes = [size.beside([size.beside(side), size.beside(side)]) for side, size in found.items()]
    first = next(iter(found.values()))
    report.note("changed", source, first, "the pictures have these sizes", "written as resolutions of the prompts")
    return {"resolutions": first.beside(sizes)}


def _sizes(source: Source, node: Node, report: Report) -> Node:
    """Keep the sizes in their order, which is height first whatever ai-toolkit's comment says."""
    fix = "write it as [[512, 512]]"
    for size in node.items:
        if len(size.items) != 2:
            raise _refuse(source, size, "every resolution is a list of two numbers", fix)
        if size.items[0].value != size.items[1].value:
            was = "its documentation says [width, height], its code reads [height, width]"
            report.note("changed", source, size, was, "kept as [height, width]")
    if not node.items:
        raise _refuse(source, node, "there is no list of resolutions", fix)
    return node


def _note_trimmed(source: Source, process: Node, node: Node, items: list[Node], report: Report) -> None:
    steps = process.table.get("train", Node({})).table.get("steps", Node(1000)).value
    if isinstance(steps, int) and len(items) > steps:
        was = f"the trainer drops all but the first {steps} of {len(items)} targets, one per step"
        report.note("changed", source, node, was, "all are written")


def _note_several(source: Source, used: list[Node], report: Report) -> None:
    """Say what one run cannot keep of several."""
    first, *others = used
    for process in others:
        was = "every process trains its own LoRA, one after the other"
        report.note("changed", source, process, was, "its targets join those of the first: one LoRA for all")
        for name, section in process.table.items():
            if name not in ("slider", "type") and plain(section) != plain(first.table.get(name)):
                was = f"this process has {name} settings of its own"
                report.note("lost", source, section, was, "the first's count")


def _fill_name(source: Source, config: Node, report: Report) -> None:
    """Put the job's name where `[name]` stands, as ai-toolkit does in every text."""
    name = plain(config.table.get("name"))
    for node in _texts(source.root):
        text = str(node.value)
        if "[name]" in text and isinstance(name, str) and text != name:
            node.value, node.raw = text.replace("[name]", name), ""
            report.note("changed", source, node, "[name] stands for the name of the job", "filled in")
        if "${" in text:
            was = "ai-toolkit puts the value of an environment variable here"
            report.note("changed", source, node, was, "kept as it is written")


def _texts(node: Node) -> Iterator[Node]:
    if isinstance(node.value, str):
        yield node
    for child in children(node):
        yield from _texts(child)


def _type(process: Node) -> str:
    return str(plain(process.table.get("type"))) if "type" in process.table else ""


def _table(source: Source, node: Node | None, name: str, parent: Node | None = None) -> Node:
    if node is None or not isinstance(node.value, dict):
        found = "is missing" if node is None else "must be a table of keys"
        at = node or parent or source.root
        raise _refuse(source, at, f"{name} {found}", f"write '{name}:' and its keys below it")
    return node


def _refuse(source: Source, node: Node, message: str, fix: str) -> ConfigError:
    return ConfigError(Problem(Where(source.path, node.line, key_text(node.key)), message, fix))
