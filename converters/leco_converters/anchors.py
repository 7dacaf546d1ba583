"""Prompts that shall stay as they are: `anchors` and `anchor_class` of ai-toolkit, `preserve` here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from leco_converters.prompt_tables import joined, keep_texts, leave_out, top
from leco_converters.report import Report
from leco_converters.tree import Node, Source, comments, plain
from leco_converters.write_yaml import commented
from leco_plugin.config.findings import Findings
from leco_plugin.config.prompts import changing, read_prompts

_LEFT_OUT = "left out, kept as a comment"
_EFFECT: Mapping[str, tuple[str, str]] = {
    "anchors": ("ai-toolkit reads anchors and never uses them", "written as preserve, which has an effect here"),
    "anchor_class": ("its trainer holds it at both ends of the slider", "written as preserve, which does so too"),
}
_LOST: Mapping[str, tuple[object, str]] = {
    "neg_prompt": ("", "preserve knows no negative prompt"),
    "multiplier": (1, "preserve holds at both signs of each pair's multiplier"),
}
"""Per key of an anchor the value that says nothing, and why any other has no counterpart."""


def preserve_anchors(roots: Sequence[Node], source: Source, report: Report) -> None:
    """Write the anchors of prompt trees that train one LoRA as what they preserve; changes the trees."""
    found = [(top(root), name) for root in roots for name in _EFFECT if _is_written(top(root), name)]
    targets: set[str] = set()
    for root in roots if found else ():
        # what is wrong in them is reported when the whole tree is read
        targets |= changing(read_prompts(plain(root), Findings(source.path), source.path.parent).pairs)
    for holder, name in found:
        anchors = holder.table[name]
        preserve = _preserve(anchors, name, targets, source, report)
        if preserve is None:
            holder.table[name] = anchors.omitted()
            continue
        lists = [holder.table["preserve"], preserve] if _is_written(holder, "preserve") else [preserve]
        table = {"preserve" if key == name else key: child for key, child in holder.table.items()}
        holder.value = {**table, "preserve": joined(lists)}


def anchors_of(preserve: Node, source: Source, report: Report) -> Node:
    """Return what a prompt file preserves as anchors."""
    if preserve.items:
        was = "preserve has no effect in ai-toolkit, which reads anchors and never uses them"
        report.note("changed", source, preserve, was, "written as anchors")
    items = [Node({"prompt": Node(item.value, after=item.after)}, before=item.before) for item in preserve.items]
    return preserve.like(items)


def _preserve(anchors: Node, name: str, targets: Collection[str], source: Source, report: Report) -> Node | None:
    """Return the prompts of anchors, each once, without those that are to change; None where there are none."""
    items = anchors.items
    if name == "anchor_class" and anchors.value is not None:
        items = [anchors.beside({"prompt": replace(anchors, before=[], after="")})]
    if not items:
        leave_out(anchors, name, source, report)
        return None
    kept: list[Node] = []
    before: list[str] = []
    for item in items:
        keep_texts(item, source, report)
        prompt = item.table.get("prompt", item.beside("")).value if isinstance(item.value, dict) else None
        if isinstance(prompt, str) and prompt not in targets:
            kept.append(_carried(item, source, report))
            continue
        why = "a target, which is to change, cannot stay as it is" if isinstance(prompt, str) else "no prompt to keep"
        report.note("lost", source, item, why, _LEFT_OUT)
        before += commented(name, item)
    if not kept:
        return None
    report.note("changed", source, anchors, *_EFFECT[name])
    return joined([replace(anchors.like(kept), before=[*anchors.before, *before])])


def _carried(item: Node, source: Source, report: Report) -> Node:
    """Return the prompt of an anchor, with what else is in it as comments."""
    prompt = item.table.get("prompt", item.beside(""))
    before = [*item.before, *([item.after] if item.after else [])]
    for name, child in item.table.items():
        if child is prompt:
            before += child.before
        elif name in _LOST and plain(child) == _LOST[name][0]:
            before += comments(child)
        else:
            why = _LOST[name][1] if name in _LOST else "unknown key"
            report.note("lost", source, child, why, _LEFT_OUT)
            before += commented(name, child)
    return Node(prompt.value, prompt.key, prompt.line, before=before, after=prompt.after)


def _is_written(table: Node, name: str) -> bool:
    return name in table.table and not table.table[name].left_out
