"""Prompt tables of YAML files to those of a prompt TOML: texts that stay texts, shuffled targets, merged processes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from leco_converters.foreign import SLIDER
from leco_converters.report import Report
from leco_converters.tree import TEXTS, Node, Source, comments, plain
from leco_plugin.config.findings import did_you_mean
from leco_plugin.config.prompt_keys import ROOT_KEYS
from leco_plugin.errors import ConfigError, Problem, Where

TABLES = ("prompts", "targets")
_MOST_SHUFFLED = 8


def top(root: Node) -> Node:
    """Return the table whose keys hold for all prompts: the root, or what stands below `slider`."""
    return root.table["slider"] if "slider" in root.table and "prompts" not in root.table else root


def keep_texts(node: Node, source: Source, report: Report) -> None:
    """Take every prompt as it is spelled, also where YAML reads a number or a switch; changes the tree."""
    for name, child in node.table.items():
        if name in TEXTS:
            for text in child.items or [child] if not isinstance(child.value, (dict, list)) or child.items else []:
                _as_text(text, source, report)
        elif name in (*TABLES, "slider"):
            for item in (child, *child.items):
                keep_texts(item, source, report)


def leave_out(node: Node, name: str, source: Source, report: Report, *, refuse_typos: bool = False) -> Node:
    """Note that a key has no counterpart, and return it as a comment; raises ConfigError for a typing error."""
    row, guess = SLIDER.get(f"slider.{name}") or SLIDER.get(name), did_you_mean(name, ROOT_KEYS)
    if row is not None and row.is_off(plain(node)):
        report.note("changed", source, node, f"{plain(node)!s:.40} is the same as no {name}", "left out")
    elif row is not None:
        report.note("lost", source, node, row.why, "left out, kept as a comment")
    elif guess and refuse_typos:
        where = Where(source.path, node.line, ".".join(str(part) for part in node.key))
        raise ConfigError(Problem(where, "unknown key", f"did you mean '{guess}'?"))
    else:
        hint = f" (did you mean '{guess}'?)" if guess else ""
        report.note("lost", source, node, f"unknown key{hint}", "left out, kept as a comment")
    return node.omitted()


def entries(
    node: Node, known: Sequence[str] | frozenset[str], source: Source, report: Report, *, refuse_typos: bool = False
) -> list[Node]:
    """Return the targets of a list with the keys that are known, each shuffled one written out."""
    result: list[Node] = []
    for item in node.items:
        if not isinstance(item.value, dict):
            result.append(item)
            continue
        kept = {
            name: child if name in known else leave_out(child, name, source, report, refuse_typos=refuse_typos)
            for name, child in item.value.items()
            if name != "shuffle" or child.value is not True
        }
        shuffle = item.value.get("shuffle")
        is_shuffled = shuffle is not None and shuffle.value is True
        result += _shuffled(item, kept, shuffle, source, report) if shuffle and is_shuffled else [item.like(kept)]
    return result


def joined(lists: Sequence[Node]) -> Node:
    """Put lists of texts into one, each text once, with all their comments."""
    first, *others = lists
    found: dict[str, Node] = {}
    before = [*first.before, *(text for one in others for text in (*one.before, one.after) if text)]
    for item in (item for one in lists for item in one.items):
        if found.setdefault(repr(plain(item)), item) is not item:
            before += comments(item)
    return Node(list(found.values()), first.key, first.line, before=before, after=first.after)


def merged(roots: Sequence[Node]) -> Node:
    """Put several prompt trees with targets into one: defaults that they share on top, the others into the targets."""
    if len(roots) == 1:
        return roots[0]
    names = list(dict.fromkeys(name for root in roots for name in root.table))
    shared: dict[str, Node] = {}
    targets: list[Node] = []
    for name in (name for name in names if name not in ("targets", "preserve")):
        found = [root.table[name] for root in roots if name in root.table]
        if found[0].left_out or (len(found) == len(roots) and all(plain(one) == plain(found[0]) for one in found)):
            shared[name] = found[0]
    preserve = [root.table["preserve"] for root in roots if "preserve" in root.table]
    if preserve:
        shared["preserve"] = joined(preserve)
    for root in roots:
        own = {name: child for name, child in root.table.items() if name not in ("targets", *shared)}
        for target in root.table["targets"].items:
            defaults = {name: child.beside(child.value) for name, child in own.items() if not child.left_out}
            target.value = {
                **target.table,
                **{name: node for name, node in defaults.items() if name not in target.table},
            }
            targets.append(target)
        shared.update({name: child for name, child in own.items() if child.left_out})
    return Node({**shared, "targets": roots[0].table["targets"].like(targets)})


def _as_text(node: Node, source: Source, report: Report) -> None:
    if node.value is None:
        report.note("changed", source, node, "nothing is written here", 'taken as the empty prompt ""')
        node.value, node.raw = "", ""
    elif not isinstance(node.value, str) and node.raw:
        report.note("changed", source, node, f"{node.raw} without quotes is no text in YAML", "taken as the text it is")
        node.value, node.raw = node.raw, ""


def _shuffled(item: Node, kept: dict[str, Node], shuffle: Node, source: Source, report: Report) -> list[Node]:
    """Write out the orders of a target's phrases: every combination of both sides, at most eight."""
    sides = [_orders(kept[name]) if name in kept else [""] for name in ("positive", "negative")]
    pairs = list(itertools.product(range(len(sides[0])), range(len(sides[1]))))
    if len(pairs) > _MOST_SHUFFLED:
        # the diagonals first, so that the few that are kept differ on both sides
        width = len(sides[1])
        pairs.sort(key=lambda pair: ((pair[1] - pair[0]) % width, pair[0]))
    pairs = pairs[:_MOST_SHUFFLED]
    done = f"written out as {len(pairs)} targets with the phrases in different orders"
    report.note("changed", source, shuffle, "the phrases are shuffled", done)
    targets = []
    for number, (up, down) in enumerate(pairs):
        texts = {"positive": sides[0][up], "negative": sides[1][down]}
        table = {}
        for name, child in kept.items():
            value = texts.get(name, child.value)
            table[name] = Node(value, child.key, child.line, child.raw) if number else child.like(value)
            table[name].raw, table[name].left_out = child.raw, child.left_out
        if not number:
            table["shuffle"] = shuffle.omitted()
        targets.append(item.beside(table) if number else item.like(table))
    return targets


def _orders(node: Node) -> list[str]:
    """Return the comma-separated phrases in up to eight orders, the written one first."""
    if not isinstance(node.value, str):
        return [""]
    phrases = [phrase.strip() for phrase in node.value.split(",") if phrase.strip()]
    return [", ".join(order) for order in itertools.islice(itertools.permutations(phrases), _MOST_SHUFFLED)]
