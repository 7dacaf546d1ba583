"""Both prompt formats to training pairs: `[[prompts]]`, `[[targets]]`, `[slider]` or one flat table.

Gives the pairs that sd-scripts makes of the same file, in its order; what sd-scripts would ignore or
misread is an error here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leco_plugin.config import prompt_keys as keys
from leco_plugin.config.blame import check_text
from leco_plugin.config.files import read_prompt_lines
from leco_plugin.config.findings import Findings, Key, describe
from leco_plugin.config.prompt_warnings import Entry, warn_prompt, warn_root_of_prompts, warn_slider
from leco_plugin.config.schema import PromptPair
from leco_plugin.config.sliders import STANDARD, expand_slider, is_blank, shared_options, slider_sizes
from leco_plugin.config.values import Values, read_values
from leco_plugin.errors import ConfigError

_MOST_PAIRS = 100_000
Table = Mapping[str, object]


@dataclass(frozen=True)
class Prompts:
    """What a prompt file asks for."""

    pairs: tuple[PromptPair, ...] = ()
    preserve: tuple[str, ...] = ()


def read_prompts(
    tree: object, findings: Findings, folder: Path, *, base: Key = (), options: Collection[str] = ()
) -> Prompts:
    """Return the pairs of a prompt tree and what it preserves; errors and warnings go to ``findings``.

    They count only where ``findings`` has no errors. ``folder`` is what neutral files are relative to,
    ``base`` the key of the tree in its file, and ``options`` names that a misspelt key may be meant to be too.
    """
    if tree is None or tree == {} or tree == []:
        findings.error(base, "there are no prompts", 'write [[prompts]] and below it target = "..."')
        return Prompts()
    if not isinstance(tree, dict):
        fix = "start with prompts: or targets:" if isinstance(tree, list) else "write key = value lines"
        findings.error(base, f"must be a table of keys, not {describe(tree)}", fix)
        return Prompts()
    reader = _Reader(findings, folder, {base: frozenset(options)})
    pairs = reader.read(tree, base)
    check_preserve(pairs, reader.preserve, (*reader.top, "preserve"), findings)
    return Prompts(pairs, tuple(dict.fromkeys(reader.preserve)))


def changing(pairs: Sequence[PromptPair]) -> set[str]:
    """Return the prompts that the pairs are to change."""
    return {pair.target for pair in pairs if not pair.keeps}


def check_preserve(pairs: Sequence[PromptPair], preserve: Sequence[str], key: Key, findings: Findings) -> None:
    """Refuse to preserve what a pair is to change."""
    targets = changing(pairs)
    for number, prompt in enumerate(preserve):
        if prompt in targets:
            message = f"{prompt!r} is to be kept as it is, and is a target that is to change"
            findings.error((*key, number), message, "remove one of the two")


@dataclass
class _Reader:
    findings: Findings
    folder: Path
    options: Mapping[Key, frozenset[str]]
    """Further keys that may stand in the table with this key."""
    preserve: tuple[str, ...] = ()
    """What the table at the top preserves."""
    top: Key = ()
    """Its key."""

    def read(self, root: Table, base: Key) -> tuple[PromptPair, ...]:
        if "prompts" in root:
            return self._read_prompts(root, base)
        if "slider" not in root:
            return self._read_targets(root, base)
        keys.ROOT_OF_SLIDER_TABLE.check(root, base, self.findings, self.options.get(base, ()))
        slider = root["slider"]
        if isinstance(slider, dict):
            return self._read_targets(slider, (*base, "slider"))
        self.findings.error((*base, "slider"), f"must be a table, not {describe(slider)}", "write [slider]")
        return ()

    def _read_prompts(self, root: Table, base: Key) -> tuple[PromptPair, ...]:
        """Read `[[prompts]]`: each entry is a slider if it has a target_class, else a prompt."""
        keys.ROOT_OF_PROMPTS.check(root, base, self.findings, self.options.get(base, ()))
        top = self._top(root, base)
        pairs: list[PromptPair] = []
        entries = self._entries(root, base, "prompts")
        for entry in entries:
            if "target_class" in entry.table:
                keys.SLIDER_IN_PROMPTS.check(entry.table, entry.key, self.findings)
                pairs += self._slider(entry, top, [entry.own.neutral or ""])
            else:
                keys.PROMPT_ENTRY.check(entry.table, entry.key, self.findings)
                pairs += self._prompt(entry, top)
        warn_root_of_prompts(top, entries, self.findings)
        return tuple(pairs)

    def _read_targets(self, root: Table, base: Key) -> tuple[PromptPair, ...]:
        """Read `[[targets]]` or a flat table; the first entry says whether all are prompts or all are sliders."""
        top = self._top(root, base)
        if "targets" in root:
            entries = self._entries(root, base, "targets")
        elif "target" in root or "target_class" in root:
            entries = [top]
        else:
            self._report_nothing(root, base)
            return ()
        if not entries:
            return ()
        is_prompt = "target" in entries[0].table
        flat = entries[0] is top
        kind = keys.PROMPT_ENTRY if is_prompt else keys.SLIDER_ENTRY
        if not flat:
            (keys.ROOT_OF_PROMPT_TARGETS if is_prompt else keys.ROOT_OF_SLIDERS).check(
                root, base, self.findings, self.options.get(base, ())
            )
        for entry in entries:
            also = {*self.options.get(entry.key, ()), *(keys.FOR_ALL if flat else ())}
            kind.check(entry.table, entry.key, self.findings, also)
        read = self._prompts_of if is_prompt else self._sliders_of
        return tuple(read(entries, top))

    def _prompts_of(self, entries: Sequence[Entry], top: Entry) -> list[PromptPair]:
        return [pair for entry in entries for pair in self._prompt(entry, top)]

    def _sliders_of(self, entries: Sequence[Entry], top: Entry) -> list[PromptPair]:
        if entries[0] is top:
            return self._slider(top, top, self._own_neutrals(top, [""]))
        shared = self._shared_neutrals(top)
        return [pair for entry in entries for pair in self._slider(entry, top, self._own_neutrals(entry, shared))]

    def _prompt(self, entry: Entry, top: Entry) -> list[PromptPair]:
        values = entry.own.over(top.own)
        if values.target is None:
            if "target" not in entry.table:
                self.findings.error(entry.key, "target is missing", 'write target = "..."')
            return []
        sizes = values.resolution or STANDARD
        if sizes.several:
            place = entry.place("resolution", top)
            self.findings.error(place, "only sliders take several sizes", "write 512 or [height, width]")
            return []
        warn_prompt(entry, top, values, self.findings)
        unconditional = values.unconditional or ""
        prompts = {
            "target": values.target,
            "positive": values.target if values.positive is None else values.positive,
            "unconditional": unconditional,
            "neutral": unconditional if values.neutral is None else values.neutral,
        }
        # what is not written stays open: it is the family's default that counts then
        size = {"resolution": sizes.each[0]} if values.resolution else {}
        return [PromptPair.model_validate(shared_options(values) | prompts | size)]

    def _slider(self, entry: Entry, top: Entry, neutrals: Sequence[str]) -> list[PromptPair]:
        values = entry.own.over(top.own)
        if is_blank(values.positive) and is_blank(values.negative):
            if not self._unreadable(values, "positive", "negative", tables=(entry.table, top.table)):
                fix = "write positive, negative or both"
                self.findings.error(entry.key, "a slider needs a positive or a negative side", fix)
            return []
        warn_slider(entry, top, values, self.findings)
        neutrals = neutrals or [values.neutral or ""]
        if 4 * len(neutrals) * len(slider_sizes(values)) > _MOST_PAIRS:
            self.findings.error(entry.key, f"expands to more than {_MOST_PAIRS} pairs", "list fewer neutrals or sizes")
            return []
        return list(expand_slider(values, neutrals))

    @staticmethod
    def _unreadable(values: Values, *names: str, tables: Sequence[Table]) -> bool:
        """Say whether one of the keys is written but wrong, which is reported already."""
        return any(getattr(values, name) is None and name in table for name in names for table in tables)

    def _shared_neutrals(self, top: Entry) -> list[str]:
        """Return the neutrals of the top: the list and both files add up; none of them: its single neutral."""
        together = [neutral for neutrals in self._neutral_lists(top).values() for neutral in neutrals]
        if together and top.own.neutral:
            self.findings.warn((*top.key, "neutral"), "has no effect beside the list of neutrals", "add it to the list")
        return together or [top.own.neutral or ""]

    def _own_neutrals(self, entry: Entry, shared: list[str]) -> list[str]:
        """Return the neutrals of an entry: the first of its lists, else its single neutral, else the shared ones."""
        lists = self._neutral_lists(entry)
        if not lists:
            return shared if entry.own.neutral is None else [entry.own.neutral]
        first, *ignored = lists
        if entry.own.neutral and lists[first]:
            ignored.append("neutral")
        for name in ignored:
            self.findings.warn((*entry.key, name), f"has no effect beside {first}", f"put all neutrals in {first}")
        return lists[first]

    def _neutral_lists(self, entry: Entry) -> dict[str, list[str]]:
        """Return the lists of neutrals that the table names, the one that wins first."""
        own = entry.own
        lists: dict[str, list[str]] = {}
        if own.neutrals is not None:
            if not entry.table["neutrals"]:
                self.findings.warn((*entry.key, "neutrals"), "is empty, so the single neutral is used", "remove it")
            lists["neutrals"] = list(own.neutrals)
        for name, file in (("neutral_prompt_file", own.neutral_prompt_file), ("prompt_file", own.prompt_file)):
            if file is not None:
                lists[name] = self._read_lines((*entry.key, name), file)
        return lists

    def _read_lines(self, key: Key, name: str) -> list[str]:
        try:
            lines = read_prompt_lines(self.folder / name)
        except ConfigError as error:
            for problem in error.problems:
                self.findings.error(key, f"{problem.where}: {problem.message}", problem.fix)
            return []
        for line in lines:
            check_text(line, key, self.findings, f"{self.folder / name}: a prompt ")
        if not lines:
            self.findings.warn(key, f"'{name}' has no prompts in it, so the single neutral is used", "remove the key")
        return lines

    def _entries(self, root: Table, base: Key, name: str) -> list[Entry]:
        items, key = root[name], (*base, name)
        if isinstance(items, dict):
            self.findings.error(key, "this is a single table", f"write [[{name}]] with two brackets")
            return []
        if not isinstance(items, list):
            self.findings.error(key, f"must be a list of tables, not {describe(items)}", f"write [[{name}]]")
            return []
        if not items:
            self.findings.error(key, "the list is empty", f"write [[{name}]] with its keys below")
        entries = []
        for index, item in enumerate(items):
            if isinstance(item, dict):
                entries.append(self._entry(item, (*key, index)))
            else:
                self.findings.error((*key, index), f"must be a table, not {describe(item)}", f"write [[{name}]]")
        return entries

    def _top(self, table: Table, key: Key) -> Entry:
        entry = self._entry(table, key)
        self.preserve, self.top = entry.own.preserve or (), key
        return entry

    def _entry(self, table: Table, key: Key) -> Entry:
        return Entry(key, table, read_values(table, key, self.findings))

    def _report_nothing(self, root: Table, base: Key) -> None:
        keys.ROOT_OF_NOTHING.check(root, base, self.findings, self.options.get(base, ()))
        fix = "write [[prompts]] with a target, or [[targets]] with a target_class"
        self.findings.error(base, "there is nothing to train: no prompts, no targets", fix)
