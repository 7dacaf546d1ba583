"""Prompts of either format to the targets of ai-toolkit's slider, which says less than a prompt file can."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from leco_converters.foreign import TABLE
from leco_converters.prompt_tables import TABLES, top
from leco_converters.report import Report
from leco_converters.tree import Node, comments, plain
from leco_plugin.config.findings import Findings
from leco_plugin.config.prompt_keys import NEUTRAL_LISTS
from leco_plugin.config.sliders import is_blank
from leco_plugin.config.values import Values, read_values

_NEUTRALS = "several neutrals, but the trainer always starts from the empty prompt"


@dataclass
class Targets:
    """The targets of a slider, and what they share."""

    listed: Node
    sizes: list[tuple[int, int]] = field(default_factory=list)
    batch_size: int = 1
    varies_crops: bool = False


def slider_targets(prompts: Node, report: Report) -> Targets:
    """Return the targets; what they cannot say goes to the report. Raises ConfigError where none is left."""
    root = top(prompts)
    reader = _Reader(root, report)
    listed = reader.listed
    items = [item for entry in listed.items for item in reader.target(entry)]
    if not items:
        raise listed.refuse("no prompt here can be a slider of ai-toolkit", "use --to leco-job")
    own = [] if reader.flat else reader.comments(root, {*TABLES, "preserve"})
    reader.result.listed = Node(items, before=[*listed.before, *own], after=listed.after)
    return reader.result


class _Reader:
    def __init__(self, root: Node, report: Report) -> None:
        self._root, self._report = root, report
        self._top = _values(root)
        name = next((name for name in TABLES if name in root.table), None)
        self.flat, self._in_prompts = name is None, name == "prompts"
        self.listed = root.table[name] if name else root.beside([root])
        self.result = Targets(self.listed)

    def target(self, entry: Node) -> list[Node]:
        """Return the target that an entry becomes; none where it has no concept."""
        values = _values(entry).over(self._top)
        # a list of targets is what its first entry is
        is_prompt = "target_class" not in entry.table if self._in_prompts else "target" in self.listed.items[0].table
        concept = (values.target if values.positive is None else values.positive) or ""
        if is_prompt and is_blank(concept) and is_blank(values.unconditional):
            self._report.leave(entry, "positive and unconditional are both empty, which a slider cannot be")
            return []
        self._note_lost(entry, values, is_prompt)
        if is_prompt:
            self._report.say("one_direction", entry, action=values.action or "erase")
            table = self._prompt(entry, values, concept)
        else:
            texts = {name: getattr(values, name) or "" for name in ("target_class", "positive", "negative")}
            table = {name: entry.table.get(name, Node(text)) for name, text in texts.items()}
        for name in ("multiplier", "weight"):
            value = getattr(values, name)
            if value is not None:
                table[name] = entry.table.get(name, Node(value))
        self._share(entry, values, is_prompt)
        placed = {*table, *TABLES, "preserve", *(("target", "unconditional") if is_prompt else ())}
        return [replace(entry, value=table, before=[*entry.before, *self.comments(entry, placed)])]

    def comments(self, table: Node, placed: Collection[str]) -> list[str]:
        """Return the comments of keys that are neither in the result nor left out as comments themselves."""
        left = {id(node) for node in self._report.left}
        return [text for name, child in table.table.items() if name not in placed and id(child) not in left
                for text in comments(child)]  # fmt: skip

    def _prompt(self, entry: Node, values: Values, concept: str) -> dict[str, Node]:
        """Say with both sides of a slider what one direction of a prompt says."""
        old = {name: entry.table.get(name, Node("")) for name in ("target", "positive", "unconditional")}
        sides = [old["positive"].like(concept), old["unconditional"].like(values.unconditional or "")]
        if values.action != "enhance":
            sides.reverse()
        return {"target_class": old["target"].like(values.target or ""), "positive": sides[0], "negative": sides[1]}

    def _note_lost(self, entry: Node, values: Values, is_prompt: bool) -> None:
        """Report what a target cannot say."""
        for name, (fixed, why) in TABLE["slider"]["fixed"].items():
            value = getattr(values, name)
            if name == "neutral" and is_prompt and value is None:
                value = values.unconditional or ""
            elif name == "neutral" and self._in_prompts and not is_prompt:
                value = _values(entry).neutral
            if value is not None and value != fixed:
                self._lose(entry, name, f"{value!a:.60}, but {why}")
        for name in NEUTRAL_LISTS:
            if name in entry.table or (name in self._root.table and not self._in_prompts):
                self._lose(entry, name, _NEUTRALS)

    def _lose(self, entry: Node, name: str, was: str) -> None:
        node = entry.table.get(name, self._root.table.get(name))
        if node is None:
            self._report.note("lost", entry, was, "left out")
        elif not any(node is one for one in self._report.left):
            self._report.leave(node, was)

    def _share(self, entry: Node, values: Values, is_prompt: bool) -> None:
        """Collect sizes and batch sizes, which all targets share."""
        found = (None if is_prompt else values.resolutions) or values.resolution
        sizes, batch, shared = list(found.each) if found else [(512, 512)], values.batch_size or 1, self.result
        if not shared.sizes:
            shared.sizes, shared.batch_size = sizes, batch
        if sizes != shared.sizes:
            self._report.say("own_sizes", entry)
            shared.sizes += [size for size in sizes if size not in shared.sizes]
        if batch != shared.batch_size:
            self._report.say("own_batch", entry, batch=batch, shared=shared.batch_size)
        shared.varies_crops |= bool(values.dynamic_crops)


def _values(node: Node) -> Values:
    bare = {name: plain(child) for name, child in node.table.items() if name not in TABLES}
    return read_values(bare, (), Findings(Path()))
