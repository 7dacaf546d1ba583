"""What is legal in a prompt file but does nothing, or not what one would expect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leco_plugin.config.findings import Findings, Key
from leco_plugin.config.kinds import Size
from leco_plugin.config.sliders import slider_sizes
from leco_plugin.config.values import Values


@dataclass(frozen=True)
class Entry:
    """One prompt table: its key in the file, what is written in it, and the checked values."""

    key: Key
    table: Mapping[str, object]
    own: Values

    def place(self, name: str, top: Entry) -> Key:
        """Key of the value that counts here: the entry's own, else the default at the top."""
        if name not in self.table and name in top.table:
            return (*top.key, name)
        return (*self.key, name) if name in self.table else self.key


def warn_prompt(entry: Entry, top: Entry, values: Values, findings: Findings) -> None:
    """Note what is odd about a prompt entry."""
    _warn_numbers(entry, top, values, findings)
    _warn_dynamic(entry, top, values, values.resolution.each if values.resolution else (), findings)
    positive = values.target if values.positive is None else values.positive
    if positive == (values.unconditional or ""):
        place = entry.place("unconditional", top)
        findings.warn(place, "positive and unconditional are the same, so there is no concept to train", "change one")


def warn_slider(entry: Entry, top: Entry, values: Values, findings: Findings) -> None:
    """Note what is odd about a slider entry."""
    _warn_numbers(entry, top, values, findings)
    _warn_dynamic(entry, top, values, slider_sizes(values), findings)
    if values.positive == values.negative:
        findings.warn(
            entry.place("negative", top), "both sides are the same, so there is nothing to train", "change one"
        )
    if values.target_class is None and "target_class" not in entry.table:
        findings.warn(entry.key, "target_class is missing; the empty prompt is taken", 'write target_class = ""')
    for table in (top, entry):
        if "resolution" in table.table and values.resolutions is not None:
            fix = "remove it, or write resolutions here"
            findings.warn((*table.key, "resolution"), "has no effect, because resolutions is set", fix)


def warn_root_of_prompts(top: Entry, entries: Sequence[Entry], findings: Findings) -> None:
    """Note the defaults above `[[prompts]]` that its sliders do not take over."""
    sliders = [entry for entry in entries if "target_class" in entry.table]
    if top.own.neutral and any("neutral" not in entry.table for entry in sliders):
        message = "the sliders in [[prompts]] do not take this default"
        findings.warn((*top.key, "neutral"), message, "write neutral in each slider, or use [[targets]]")
    if sliders and len(sliders) == len(entries):
        for name in ("target", "unconditional", "action"):
            if name in top.table:
                findings.warn((*top.key, name), "has no effect, because every entry is a slider", "remove it")


_ODD: Sequence[tuple[str, Callable[[float], bool], str, str]] = (
    ("weight", lambda value: value == 0, "weight 0 leaves this entry untrained", "remove the entry"),
    ("weight", lambda value: value < 0, "a negative weight drives the model away from the goal without end",
     "use a positive weight, and the other action"),
    ("guidance_scale", lambda value: value == 0, "guidance_scale 0 changes nothing but the neutral",
     "write 1.0 or more"),
    ("guidance_scale", lambda value: value < 0, "a negative guidance_scale turns erase into enhance, and back",
     "use the other action"),
    ("multiplier", lambda value: value == 0, "multiplier 0 switches the LoRA off, so nothing is trained", "write 1.0"),
)  # fmt: skip
"""Numbers that are legal and seldom meant."""


def _warn_numbers(entry: Entry, top: Entry, values: Values, findings: Findings) -> None:
    # with the target itself as neutral it is meant: the pair keeps that prompt as it is
    keeps = "target" in entry.table and entry.table.get("neutral") == entry.table["target"]
    for name, is_odd, message, fix in _ODD:
        value = getattr(values, name)
        if value is not None and is_odd(value) and not (keeps and name == "guidance_scale" and value == 0):
            findings.warn(entry.place(name, top), message, fix)


def _warn_dynamic(entry: Entry, top: Entry, values: Values, sizes: Sequence[Size], findings: Findings) -> None:
    if values.dynamic_resolution and any(height != width for height, width in sizes):
        place = entry.place("dynamic_resolution", top)
        findings.warn(place, "has no effect on a size that is not square", "use a square size, or remove it")
