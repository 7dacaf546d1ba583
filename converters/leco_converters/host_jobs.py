"""Jobs of ai-toolkit whose processes train sliders: their prompts and their settings."""

from __future__ import annotations

from leco_converters.anchors import preserve_anchors
from leco_converters.foreign import CONCEPT_SLIDER, SLIDER
from leco_converters.prompt_tables import entries, keep_texts, leave_out, merged
from leco_converters.report import Report
from leco_converters.request import Plan
from leco_converters.settings import foreign_settings
from leco_converters.tree import Node, Source, plain

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
    config = _table(source.root, "config")
    report = Report(source.path)
    _fill_name(source.root, plain(config.table.get("name")), report)
    roots: list[Node] = []
    used: list[Node] = []
    for process in config.table["process"].items:
        kind = plain(process.table.get("type"))
        if kind in _SLIDERS:
            read = _concept if kind == "concept_slider" else _slider
            roots.append(read(process, report))
            used.append(process)
        else:
            what = "needs pictures" if kind in _WITH_PICTURES else "is no slider"
            report.note("lost", process, f"a process of the type {kind!a} {what}", "left out")
    if not roots:
        kinds = ", ".join(repr(plain(process.table.get("type"))) for process in config.table["process"].items)
        raise config.table["process"].refuse(f"no process of this job trains a slider from prompts, but {kinds}", "")
    _note_several(used, report)
    preserve_anchors(roots, source.path.parent, report)
    rows = CONCEPT_SLIDER if plain(used[0].table["type"]) == "concept_slider" else SLIDER
    settings = foreign_settings(rows, used[0], config, skip="slider")
    settings.meta = source.root.table.get("meta")
    return Plan("ai-toolkit", source, merged(roots), source, report, settings, rows)


def _slider(process: Node, report: Report) -> Node:
    """Return the targets of a `slider` process, with what its trainer fixes written out."""
    section = _table(process, "slider")
    if not isinstance(section.table.get("targets", Node(None)).value, list):
        raise section.refuse("there is no list of targets", "write 'targets:' and '- target_class: ...'")
    keep_texts(section, report)
    table = {"guidance_scale": section.beside(1.0), "neutral": section.beside(""), **_batch(process)}
    was = "the trainer fixes the edit strength at 1 and the neutral prompt at ''"
    report.note("changed", section, was, "written out as guidance_scale and neutral")
    was = "the trainer's walk runs with the LoRA off"
    report.note("changed", section, was, "here it runs with the LoRA on")
    for name, child in section.table.items():
        if name == "targets":
            items = entries(child, _TARGET_KEYS, report)
            for item in items:
                item.table.setdefault("target_class", item.beside(""))
            table["targets"] = child.like(items)
            _note_trimmed(process, child, items, report)
        elif name == "resolutions":
            table[name] = _sizes(child, report)
        elif name == "anchors":
            table[name] = child
        else:
            leave_out(child, name, report)
    return Node(table)


def _batch(process: Node) -> dict[str, Node]:
    batch = process.table.get("train", Node({})).table.get("batch_size")
    return {} if batch is None or batch.value is None else {"batch_size": batch.beside(batch.value)}


def _concept(process: Node, report: Report) -> Node:
    """Return the one target of a `concept_slider` process, which starts from its class."""
    section = _table(process, "slider")
    section.value = {_CONCEPT_KEYS.get(name, name): child for name, child in section.table.items()}
    keep_texts(section, report)
    target: dict[str, Node] = {"target_class": section.beside("")}
    top: dict[str, Node] = {**_batch(process), **_picture_sizes(process, report)}
    for name, child in section.table.items():
        if name in _CONCEPT_KEYS.values():
            target[name] = child
        elif name == "anchor_class":
            top[name] = child
        elif name != "anchor_strength" or plain(child) != 1:
            leave_out(child, name, report)
    if "guidance_scale" not in target:
        target["guidance_scale"] = section.beside(3.0)
        report.note("added", section, "guidance_strength is 3 there when it is not written", "written out")
    else:
        report.note("changed", target["guidance_scale"], "guidance_strength", "is guidance_scale here")
    target["neutral"] = target["target_class"].beside(target["target_class"].value)
    was = "a concept slider noises pictures of a data set"
    report.note("changed", section, was, "here it trains on what the model draws; neutral is the target_class")
    return Node({**top, "targets": section.beside([section.like(target)])})


def _picture_sizes(process: Node, report: Report) -> dict[str, Node]:
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
    report.note("changed", first, "the pictures have these sizes", "written as resolutions of the prompts")
    return {"resolutions": first.beside(sizes)}


def _sizes(node: Node, report: Report) -> Node:
    """Keep the sizes in their order, which is height first whatever ai-toolkit's comment says."""
    fix = "write it as [[512, 512]]"
    for size in node.items:
        if len(size.items) != 2:
            raise size.refuse("every resolution is a list of two numbers", fix)
        if size.items[0].value != size.items[1].value:
            was = "its documentation says [width, height], its code reads [height, width]"
            report.note("changed", size, was, "kept as [height, width]")
    if not node.items:
        raise node.refuse("there is no list of resolutions", fix)
    return node


def _note_trimmed(process: Node, node: Node, items: list[Node], report: Report) -> None:
    steps = process.table.get("train", Node({})).table.get("steps", Node(1000)).value
    if isinstance(steps, int) and len(items) > steps:
        was = f"the trainer drops all but the first {steps} of {len(items)} targets, one per step"
        report.note("changed", node, was, "all are written")


def _note_several(used: list[Node], report: Report) -> None:
    """Say what one run cannot keep of several."""
    first, *others = used
    for process in others:
        was = "every process trains its own LoRA, one after the other"
        report.note("changed", process, was, "its targets join those of the first: one LoRA for all")
        for name, section in process.table.items():
            if name not in ("slider", "type") and plain(section) != plain(first.table.get(name)):
                was = f"this process has {name} settings of its own"
                report.note("lost", section, was, "the first's count")


def _fill_name(node: Node, name: object, report: Report) -> None:
    """Put the job's name where `[name]` stands, as ai-toolkit does in every text."""
    if isinstance(node.value, str):
        if "${" in node.value:
            was = "ai-toolkit puts the value of an environment variable here"
            report.note("changed", node, was, "kept as it is written")
        if "[name]" in node.value and isinstance(name, str) and node.value != name:
            node.value, node.raw = node.value.replace("[name]", name), ""
            report.note("changed", node, "[name] stands for the name of the job", "filled in")
    for child in node.children:
        _fill_name(child, name, report)


def _table(parent: Node, name: str) -> Node:
    node = parent.table.get(name, parent)
    if node is parent or not isinstance(node.value, dict):
        found = "is missing" if node is parent else "must be a table of keys"
        raise node.refuse(f"{name} {found}", f"write '{name}:' and its keys below it")
    return node
