"""Reads single values of a prompt file; a wrong one is noted and read as absent."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from leco_plugin.config.findings import Findings, Key, did_you_mean
from leco_plugin.config.kinds import Action
from leco_plugin.config.names import AUTO

Size = tuple[int, int]
_SURROGATE = re.compile("[\ud800-\udfff]")
ACTIONS: tuple[Action, ...] = ("erase", "enhance")


@dataclass(frozen=True)
class Sizes:
    """One or several (height, width); several is a list of lists in the file."""

    each: tuple[Size, ...]
    several: bool = False


@dataclass(frozen=True)
class Values:
    """The checked values of one prompt table; None where the table does not say."""

    target: str | None = None
    target_class: str | None = None
    positive: str | None = None
    negative: str | None = None
    unconditional: str | None = None
    neutral: str | None = None
    neutrals: tuple[str, ...] | None = None
    neutral_prompt_file: str | None = None
    prompt_file: str | None = None
    action: Action | None = None
    guidance_scale: float | None = None
    resolution: Sizes | None = None
    resolutions: Sizes | None = None
    dynamic_resolution: bool | None = None
    batch_size: int | None = None
    dynamic_crops: bool | None = None
    multiplier: float | None = None
    weight: float | None = None
    preserve: tuple[str, ...] | None = None

    def over(self, defaults: Values) -> Values:
        """Return these values, with the defaults where this table does not say."""
        own = {name.name: getattr(self, name.name) for name in fields(self)}
        return Values(**{name: getattr(defaults, name) if value is None else value for name, value in own.items()})


def read_values(table: Mapping[str, object], key: Key, findings: Findings) -> Values:
    """Read the known keys of one table; what is wrong goes to ``findings``. Unknown keys are the caller's."""
    reader = _Reader(table, key, findings)
    return Values(
        target=reader.text("target"),
        target_class=reader.text("target_class"),
        positive=reader.text("positive"),
        negative=reader.text("negative"),
        unconditional=reader.text("unconditional"),
        neutral=reader.text("neutral"),
        neutrals=reader.texts("neutrals"),
        neutral_prompt_file=reader.file_name("neutral_prompt_file"),
        prompt_file=reader.file_name("prompt_file"),
        action=reader.action("action"),
        guidance_scale=reader.number("guidance_scale"),
        resolution=reader.sizes("resolution"),
        resolutions=reader.sizes("resolutions"),
        dynamic_resolution=reader.switch("dynamic_resolution"),
        batch_size=reader.count("batch_size"),
        dynamic_crops=reader.switch("dynamic_crops"),
        multiplier=reader.number("multiplier"),
        weight=reader.number("weight"),
        preserve=reader.texts("preserve"),
    )


def describe(value: object) -> str:
    """Name a value for a message: what it is, and shortly what it says."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the switch {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {shorten(value)}"
    if isinstance(value, str):
        return f"the text '{shorten(value)}'"
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else "a date or time"


def shorten(value: object, most: int = 40) -> str:
    """Write a value in at most ``most`` characters."""
    if isinstance(value, int) and abs(value) >= 10**most:
        return "with too many digits"
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


class _Reader:
    """The values of one table, by name and type."""

    def __init__(self, table: Mapping[str, object], key: Key, findings: Findings) -> None:
        self._table = table
        self._key = key
        self._findings = findings

    def text(self, name: str) -> str | None:
        return self._text(self._table[name], (*self._key, name)) if name in self._table else None

    def file_name(self, name: str) -> str | None:
        text = self.text(name)
        if text == "":
            self._wrong((*self._key, name), "the file name is empty", "name a text file with one prompt per line")
            return None
        return text

    def texts(self, name: str) -> tuple[str, ...] | None:
        if name not in self._table:
            return None
        value, key = self._table[name], (*self._key, name)
        if name == "preserve" and value == AUTO:
            return (AUTO,)
        if not isinstance(value, list):
            one = ', or neutral = "..." for a single one' if name == "neutrals" else ""
            fix = f'write {name} = ["first", "second"]{one}'
            self._wrong(key, f"must be a list of texts, not {describe(value)}", fix)
            return None
        items = [self._text(item, (*key, index)) for index, item in enumerate(value)]
        return tuple(item for item in items if item is not None)

    def action(self, name: str) -> Action | None:
        text = self.text(name)
        for action in ACTIONS:
            if text == action:
                return action
        if text is not None:
            guess = did_you_mean(text.strip(), ACTIONS)
            fix = f"did you mean '{guess}'?" if guess else "'erase' takes the concept away, 'enhance' adds to it"
            self._wrong((*self._key, name), f"must be 'erase' or 'enhance', not '{shorten(text)}'", fix)
        return None

    def switch(self, name: str) -> bool | None:
        if name not in self._table:
            return None
        value = self._table[name]
        if isinstance(value, bool):
            return value
        self._wrong((*self._key, name), f"must be true or false, not {describe(value)}", "write true or false")
        return None

    def number(self, name: str) -> float | None:
        return self._number(self._table[name], (*self._key, name)) if name in self._table else None

    def count(self, name: str) -> int | None:
        if name not in self._table:
            return None
        value, key = self._table[name], (*self._key, name)
        number = self._whole(value, key)
        if number is not None and number < 1:
            self._wrong(key, f"must be 1 or more, not {shorten(number)}", "1 is the smallest batch")
            return None
        return number

    def sizes(self, name: str) -> Sizes | None:
        if name not in self._table:
            return None
        value, key = self._table[name], (*self._key, name)
        if isinstance(value, list) and any(isinstance(item, list) for item in value):
            if not isinstance(value[0], list):
                fix = "write every item as [height, width]"
                self._wrong(key, "numbers stand beside lists; is this one size or several?", fix)
                return None
            each = [self._size(item, (*key, index)) for index, item in enumerate(value)]
            return Sizes(tuple(size for size in each if size is not None), several=True) if all(each) else None
        size = self._size(value, key)
        return Sizes((size,)) if size else None

    def _size(self, value: object, key: Key) -> Size | None:
        if not isinstance(value, list):
            side = self._side(value, key)
            return (side, side) if side else None
        if len(value) != 2:
            fix = "write 512 for a square, or [height, width]"
            self._wrong(key, f"a size is one number or two, not {len(value)}", fix)
            return None
        height, width = (self._side(item, (*key, index)) for index, item in enumerate(value))
        return (height, width) if height and width else None

    def _side(self, value: object, key: Key) -> int | None:
        number = self._whole(value, key)
        if number is None:
            return None
        if number < 8 or number % 8:
            nearest = max(8, round(number / 8) * 8) if abs(number) < 10**6 else 512
            self._wrong(key, f"must be a positive multiple of 8, not {shorten(number)}", f"did you mean {nearest}?")
            return None
        if number > 2**16:
            self._wrong(key, f"{shorten(number)} pixels are more than any model draws", "write the size in pixels")
            return None
        return number

    def _text(self, value: object, key: Key) -> str | None:
        if isinstance(value, str):
            if value.isascii() or not _SURROGATE.search(value):
                return value
            self._wrong(key, "half of a character pair (a lone surrogate) is no text", "write the character itself")
            return None
        fix = '"" is the empty prompt' if value is None else "put the text in quotes"
        self._wrong(key, f"must be text, not {describe(value)}", fix)
        return None

    def _number(self, value: object, key: Key) -> float | None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            fix = "remove the quotes" if _looks_like_number(value) else "write a number such as 1.0"
            self._wrong(key, f"must be a number, not {describe(value)}", fix)
            return None
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self._wrong(key, f"must be a finite number, not {shorten(number)}", "write a number such as 1.0")
            return None
        return number

    def _whole(self, value: object, key: Key) -> int | None:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        number = self._number(value, key)
        if number is not None and not number.is_integer():
            self._wrong(key, f"must be a whole number, not {shorten(number)}", f"did you mean {round(number)}?")
            return None
        return None if number is None else int(number)

    def _wrong(self, key: Key, message: str, fix: str) -> None:
        self._findings.error(key, message, fix)


def _looks_like_number(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True
