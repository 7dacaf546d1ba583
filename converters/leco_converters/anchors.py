"""Prompts that shall stay as they are: `anchors` and `anchor_class` of ai-toolkit, `preserve` here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from leco_converters.foreign import TABLE
from leco_converters.prompt_tables import joined, keep_texts, leave_out, top
from leco_converters.report import Report
from leco_converters.tree import Node, plain
from leco_plugin.config.findings import Findings
from leco_plugin.config.prompts import changing, read_prompts

_NAMES = ("anchors", "anchor_class")


def preserve_anchors(roots: Sequence[Node], folder: Path, report: Report) -> None:
    """Write the anchors of prompt trees that train one LoRA as what they preserve; changes the trees."""
    found = [(top(root), name) for root in roots for name in _NAMES if name in top(root).table]
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
        report.say("preserve", preserve)
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
        report.say(name, anchors)
    return [joined([anchors.like(kept)])] if kept else []


def _carried(item: Node, prompt: Node, report: Report) -> Node:
    """Return the prompt of an anchor, without what else is in it."""
    before, lost = list(item.around), TABLE["slider"]["anchor"]
    for name, child in item.table.items():
        nothing, why = lost.get(name, (None, "unknown key"))
        before += child.before if child is prompt else []
        if name in lost and plain(child) == nothing:
            before += child.around
        elif child is not prompt:
            report.leave(child, why)
    return replace(prompt, before=before)
