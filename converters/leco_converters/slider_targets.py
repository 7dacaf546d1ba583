"""Prompts of either format to the targets of ai-toolkit's slider, which says less than a prompt file can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leco_converters.anchors import anchors_of
from leco_converters.prompt_tables import TABLES, top
from leco_converters.request import Plan
from leco_converters.tree import Node, comments, plain
from leco_plugin.config.findings import Findings
from leco_plugin.config.kinds import Size
from leco_plugin.config.prompt_keys import NEUTRAL_LISTS
from leco_plugin.config.sliders import is_blank
from leco_plugin.config.values import Values, read_values
from leco_plugin.errors import ConfigError, Problem, Where

_LEFT_OUT = "left out, kept as a comment"
_FIXED: Mapping[str, tuple[object, str]] = {
    "guidance_scale": (1.0, "the trainer fixes the edit strength at 1"),
    "neutral": ("", "the trainer always starts from the empty prompt"),
    "dynamic_resolution": (False, "the trainer draws at fixed sizes"),
    "dynamic_crops": (False, "the trainer does not vary crops"),
}
_NEUTRALS = "several neutrals, but the trainer always starts from the empty prompt"


@dataclass
class Targets:
    """The targets of a slider, and what they share."""

    listed: Node
    sizes: list[Size] = field(default_factory=list)
    batch_size: int = 1
    left_out: dict[str, Node] = field(default_factory=dict)
    """Defaults of the prompt file that have no counterpart."""
    varies_crops: bool = False
    anchors: Node | None = None
    """What the prompt file preserves."""


def slider_targets(plan: Plan) -> Targets:
    """Return the targets; what they cannot say goes to the plan's report."""
    return _Builder(plan, top(plan.prompts)).build()


class _Builder:
    def __init__(self, plan: Plan, root: Node) -> None:
        self._plan = plan
        self._root = root
        self._top = _values(root)
        name = next((name for name in TABLES if name in root.table), None)
        self._listed = root.table[name] if name else Node([root])
        self._entries = [entry for entry in self._listed.items if not entry.left_out]
        self._in_prompts = name == "prompts"
        self._flat = name is None
        self._result = Targets(self._listed)

    def build(self) -> Targets:
        items = [self._target(entry) for entry in self._entries]
        if all(item.left_out for item in items):
            place = Where(self._plan.prompt_source.path, self._listed.line)
            raise ConfigError(Problem(place, "no prompt here can be a slider of ai-toolkit", "use --to leco-job"))
        before = list(self._listed.before)
        for name, child in self._root.table.items() if not self._flat else ():
            if child.left_out:
                self._result.left_out[name] = child
            elif name not in (*TABLES, "preserve", *self._result.left_out):
                before += comments(child)
        preserve = self._root.table.get("preserve")
        if preserve and not preserve.left_out:
            self._result.anchors = anchors_of(preserve, self._plan.prompt_source, self._plan.report)
        self._result.listed = Node(items, before=before, after=self._listed.after)
        return self._result

    def _target(self, entry: Node) -> Node:
        values = _values(entry).over(self._top)
        is_prompt = self._is_prompt(entry)
        if is_prompt and is_blank(_concept(values)) and is_blank(values.unconditional):
            self._note("lost", entry, "positive and unconditional are both empty, which a slider cannot be", _LEFT_OUT)
            return entry.omitted()
        left = self._left_out(entry, values, is_prompt)
        table = self._prompt(entry, values) if is_prompt else self._slider(entry, values)
        for name in ("multiplier", "weight"):
            value = getattr(values, name)
            if value is not None:
                table[name] = entry.table.get(name, Node(value))
        self._share(entry, values, is_prompt)
        before = list(entry.before)
        placed = {id(node) for node in table.values()}
        for name, child in entry.table.items():
            if name not in (*left, *table, "preserve") and id(child) not in placed:
                before += comments(child)
        return Node({**table, **left}, entry.key, entry.line, before=before, after=entry.after)

    def _is_prompt(self, entry: Node) -> bool:
        """Say whether an entry is a prompt; a list of targets is what its first entry is."""
        return "target_class" not in entry.table if self._in_prompts else "target" in self._entries[0].table

    def _slider(self, entry: Node, values: Values) -> dict[str, Node]:
        texts = {name: getattr(values, name) or "" for name in ("target_class", "positive", "negative")}
        return {name: entry.table.get(name, Node(text)) for name, text in texts.items()}

    def _prompt(self, entry: Node, values: Values) -> dict[str, Node]:
        """Say with both sides of a slider what one direction of a prompt says."""
        concept = _concept(values)
        other = values.unconditional or ""
        enhance = values.action == "enhance"
        self._note("changed", entry, f"{values.action or 'erase'} trains one direction",
                   "written as a slider, which trains the opposite at the negative strength too")  # fmt: skip
        old = {name: entry.table.get(name, Node("")) for name in ("target", "positive", "unconditional")}
        sides = {"positive": old["positive"].like(concept), "negative": old["unconditional"].like(other)}
        if not enhance:
            sides = {"positive": sides["negative"], "negative": sides["positive"]}
        return {"target_class": old["target"].like(values.target or ""), **sides}

    def _left_out(self, entry: Node, values: Values, is_prompt: bool) -> dict[str, Node]:
        """Note what a target cannot say; returns the entry's own part of it, as comments."""
        left = {name: child for name, child in entry.table.items() if child.left_out and not self._flat}
        for name, (fixed, why) in _FIXED.items():
            value = getattr(values, name)
            if name == "neutral" and is_prompt and value is None:
                value = values.unconditional or ""
            elif name == "neutral" and self._in_prompts and not is_prompt:
                value = _values(entry).neutral
            if value is not None and value != fixed:
                self._omit(entry, name, f"{value!a:.60}, but {why}", left)
        for name in NEUTRAL_LISTS:
            if name in entry.table or (name in self._root.table and not self._in_prompts):
                self._omit(entry, name, _NEUTRALS, left)
        return left

    def _omit(self, entry: Node, name: str, was: str, left: dict[str, Node]) -> None:
        own = entry.table.get(name)
        default = self._root.table.get(name)
        if own is not None and not own.left_out:
            self._note("lost", own, was, _LEFT_OUT)
            left[name] = own.omitted()
        elif default is not None and not default.left_out:
            self._note("lost", default, was, _LEFT_OUT)
            self._result.left_out[name] = default.omitted()
        elif own is None and default is None:
            self._note("lost", entry, was, "left out")

    def _share(self, entry: Node, values: Values, is_prompt: bool) -> None:
        """Collect sizes and batch sizes, which all targets share."""
        found = (None if is_prompt else values.resolutions) or values.resolution
        sizes = list(found.each) if found else [(512, 512)]
        first = not self._result.sizes
        if first:
            self._result.sizes = sizes
        elif sizes != self._result.sizes:
            self._note("lost", entry, "sizes of its own", "the trainer draws one of all sizes for every target")
            self._result.sizes += [size for size in sizes if size not in self._result.sizes]
        batch = values.batch_size or 1
        if first:
            self._result.batch_size = batch
        elif batch != self._result.batch_size:
            self._note("lost", entry, f"batch_size {batch}", f"all are trained with {self._result.batch_size}")
        self._result.varies_crops |= bool(values.dynamic_crops)

    def _note(self, kind: Literal["lost", "changed"], node: Node, was: str, done: str) -> None:
        self._plan.report.note(kind, self._plan.prompt_source, node, was, done)


def _concept(values: Values) -> str:
    return (values.target if values.positive is None else values.positive) or ""


def _values(node: Node) -> Values:
    bare = {name: plain(child) for name, child in node.table.items() if not child.left_out and name not in TABLES}
    return read_values(bare, (), Findings(Path()))
