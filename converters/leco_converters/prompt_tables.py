"""Prompt tables of YAML files to those of a prompt TOML: texts that stay texts, shuffled targets, merged processes.

And prompts that shall stay as they are: `anchors` and `anchor_class` of ai-toolkit, `preserve` here.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from leco_converters.foreign import SLIDER, TABLE
from leco_converters.report import Report
from leco_converters.tree import TEXTS, Node, comments, plain
from leco_plugin.config.findings import Findings, did_you_mean
from leco_plugin.config.prompt_keys import ROOT_KEYS
from leco_plugin.config.prompts import changing, read_prompts

TABLES = ("prompts", "targets")
_MOST_SHUFFLED = 8


def top(root: Node) -> Node:
    """Return the table whose keys hold for all prompts: the root, or what stands below `slider`."""
    return root.table["slider"] if "slider" in root.table and "prompts" not in root.table else root


def keep_texts(node: Node, report: Report) -> None:
    """Take every prompt as it is spelled, also where YAML reads a number or a switch; changes the tree."""
    for name, child in node.table.items():
        if name in (*TABLES, "slider"):
            for item in (child, *child.items):
                keep_texts(item, report)
        for text in (child, *child.items) if name in TEXTS else ():
            if text.value is None and name not in ("neutrals", "preserve"):
                report.say("empty", text)
                text.value, text.raw = "", ""
            elif text.raw and text.value is not None:
                report.say("bare", text, raw=text.raw)
                text.value, text.raw = text.raw, ""


def leave_out(node: Node, name: str, report: Report, *, refuse_typos: bool = False) -> None:
    """Leave out what has no counterpart; raises ConfigError for a typing error."""
    row, guess = SLIDER.get(f"slider.{name}") or SLIDER.get(name), did_you_mean(name, ROOT_KEYS)
    if row is not None and row.is_off(plain(node)):
        report.leave(node, f"{plain(node)!s:.40} is the same as no {name}", "changed")
    elif row is not None:
        report.leave(node, row.why)
    elif guess and refuse_typos:
        raise node.refuse("unknown key", f"did you mean '{guess}'?")
    else:
        report.leave(node, f"unknown key (did you mean '{guess}'?)" if guess else "unknown key")


def entries(node: Node, known: Collection[str], report: Report, *, refuse_typos: bool = False) -> list[Node]:
    """Return the targets of a list with the keys that are known, each shuffled one written out."""
    result: list[Node] = []
    for item in node.items:
        shuffle = item.at("shuffle")
        for name, child in item.table.items():
            if name not in known and not (child is shuffle and child.value is True):
                leave_out(child, name, report, refuse_typos=refuse_typos)
        kept = item.like({name: child for name, child in item.table.items() if name in known})
        if shuffle.value is True:
            report.left.append(shuffle)
            result += _shuffled(kept, shuffle, report)
        else:
            result.append(kept if isinstance(item.value, dict) else item)
    return result


def joined(lists: Sequence[Node]) -> Node:
    """Put lists of texts into one, each text once, with all their comments."""
    first, *others = lists
    found: dict[str, Node] = {}
    before = [*first.before, *(text for one in others for text in one.around if text)]
    # "auto" may stand in the place of a list
    for item in (item for one in lists for item in ([Node(one.value)] if isinstance(one.value, str) else one.items)):
        if found.setdefault(repr(plain(item)), item) is not item:
            before += comments(item)
    return replace(first, value=list(found.values()), before=before)


def merged(roots: Sequence[Node]) -> Node:
    """Put several prompt trees with targets into one: defaults that they share on top, the others into the targets."""
    first, *others = roots
    preserve = [root.table["preserve"] for root in roots if "preserve" in root.table]
    shared = {
        name: child for name, child in first.table.items()
        if name != "preserve" and all(plain(child) == plain(root.at(name)) for root in others)
    }  # fmt: skip
    for root in roots:
        own = {name: child for name, child in root.table.items() if name not in ("targets", "preserve", *shared)}
        for target in root.table["targets"].items:
            target.value = {**{name: child.beside(child.value) for name, child in own.items()}, **target.table}
    listed = first.table["targets"].like([target for root in roots for target in root.table["targets"].items])
    return Node({**shared, **({"preserve": joined(preserve)} if preserve else {}), "targets": listed})


def _shuffled(target: Node, shuffle: Node, report: Report) -> list[Node]:
    """Write out the orders of a target's phrases: every combination of both sides, at most eight."""
    sides = [_orders(target.at(name).value or "") for name in ("positive", "negative")]
    pairs = list(itertools.product(range(len(sides[0])), range(len(sides[1]))))
    if len(pairs) > _MOST_SHUFFLED:
        # the diagonals first, so that the few that are kept differ on both sides
        pairs.sort(key=lambda pair: ((pair[1] - pair[0]) % len(sides[1]), pair[0]))
    pairs = pairs[:_MOST_SHUFFLED]
    report.say("shuffled", shuffle, count=len(pairs))
    targets: list[Node] = []
    for up, down in pairs:
        texts = {"positive": sides[0][up], "negative": sides[1][down]}
        table = {name: replace(child, value=texts.get(name, child.value)) for name, child in target.table.items()}
        if targets:
            table = {name: replace(child, before=[], after="") for name, child in table.items()}
        targets.append(target.beside(table) if targets else target.like(table))
    return targets


def _orders(text: object) -> list[str]:
    """Return the comma-separated phrases in up to eight orders, the written one first."""
    phrases = [phrase.strip() for phrase in str(text).split(",") if phrase.strip()]
    return [", ".join(order) for order in itertools.islice(itertools.permutations(phrases), _MOST_SHUFFLED)]


def preserve_anchors(roots: Sequence[Node], folder: Path, report: Report) -> None:
    """Write the anchors of prompt trees that train one LoRA as what they preserve; changes the trees."""
    found = [(top(root), name) for root in roots for name in ("anchors", "anchor_class") if name in top(root).table]
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
