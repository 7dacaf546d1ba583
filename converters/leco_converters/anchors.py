"""Prompts that shall stay as they are: `anchors` and `anchor_class` of ai-toolkit, `preserve` here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from leco_converters.prompt_tables import joined, keep_texts, leave_out, top
from leco_converters.report import Report
from leco_converters.tree import Node, plain
from leco_plugin.config.findings import Findings
from leco_plugin.config.prompts import changing, read_prompts

_EFFECT: Mapping[str, tuple[str, str]] = {
    "anchors": ("ai-toolkit reads anchors and never uses them", "written as preserve, which has an effect here"),
    "anchor_class": ("its trainer holds it at both ends of the slider", "written as preserve, which does so too"),
}
_LOST: Mapping[str, tuple[object, str]] = {
    "neg_prompt": ("", "preserve knows no negative prompt"),
    "multiplier": (1, "preserve holds at both signs of each pair's multiplier"),
}
"""Per key of an anchor the value that says nothing, and why any other has no counterpart."""


def preserve_anchors(roots: Sequence[Node], folder: Path, report: Report) -> None:
    """Write the anchors of prompt trees that train one LoRA as what they preserve; changes the trees."""
    found = [(top(root), name) for root in roots for name in _EFFECT if name in top(root).table]
    targets: set[str] = set()
    for root in roots if found else ():
        # what is wrong in them is reported when the whole tree is read
        targets |= changing(read_prompts(plain(root), Findings(report.path), folder).pairs)
    for holder, name in found:
        preserve = _preserve(holder.table[name], name, targets, report)
        lists = [holder.table["preserve"], *preserve] if "preserve" in holder.table else preserve
        table = {"preserve" if key == name else key: child for key, child in holder.table.items()
                 if key != name or preserve}  # fmt: skip
        holder.value = {**table, "preserve": joined(lists)} if lists else table


def anchors_of(preserve: Node, report: Report) -> Node:
    """Return what a prompt file preserves as anchors."""
    if preserve.items:
        was = "preserve has no effect in ai-toolkit, which reads anchors and never uses them"
        report.note("changed", preserve, was, "written as anchors")
    items = [Node({"prompt": Node(item.value, after=item.after)}, before=item.before) for item in preserve.items]
    return preserve.like(items)


def _preserve(anchors: Node, name: str, targets: Collection[str], report: Report) -> list[Node]:
    """Return a list of the prompts of anchors, without those that are to change; none where there are no prompts."""
    items = anchors.items
    if name == "anchor_class" and anchors.value is not None:
        items = [anchors.beside({"prompt": replace(anchors, before=[], after="")})]
    if not items:
        leave_out(anchors, name, report)
        return []
    kept: list[Node] = []
    for item in items:
        keep_texts(item, report)
        prompt = item.table.get("prompt", item.beside("")) if isinstance(item.value, dict) else Node(None)
        if isinstance(prompt.value, str) and prompt.value not in targets:
            kept.append(_carried(item, prompt, report))
        else:
            is_text = isinstance(prompt.value, str)
            why = "a target, which is to change, cannot stay as it is" if is_text else "no prompt to keep"
            report.leave(item if name == "anchors" else anchors, why)
    if kept:
        report.note("changed", anchors, *_EFFECT[name])
    return [joined([anchors.like(kept)])] if kept else []


def _carried(item: Node, prompt: Node, report: Report) -> Node:
    """Return the prompt of an anchor, without what else is in it."""
    before = list(item.around)
    for name, child in item.table.items():
        before += child.before if child is prompt else []
        if name in _LOST and plain(child) == _LOST[name][0]:
            before += child.around
        elif child is not prompt:
            report.leave(child, _LOST[name][1] if name in _LOST else "unknown key")
    return replace(prompt, before=before)
