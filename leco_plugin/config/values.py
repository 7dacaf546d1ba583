"""The values of a prompt table, whichever kind it is of; what a kind makes of them is said elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, field_validator

from leco_plugin.config.blame import read_model, refuse
from leco_plugin.config.findings import Findings, Key
from leco_plugin.config.kinds import Action, BatchSize, Finite, Frozen, Preserved, SizesOption, Texts


def _named(name: str) -> str:
    if not name:
        raise refuse("the file name is empty", "name a text file with one prompt per line")
    return name


_LISTS = ("neutrals", "preserve")
PromptFile = Annotated[str, AfterValidator(_named)]


class Values(Frozen):
    """The checked values of one prompt table; None where the table does not say."""

    target: str | None = None
    target_class: str | None = None
    """Prompt whose meaning a slider changes."""
    positive: str | None = None
    negative: str | None = None
    """Prompt of the other end of a slider, at negative strength."""
    unconditional: str | None = None
    neutral: str | None = None
    neutrals: Texts | None = None
    """Neutral prompts of a slider: pairs for each of them."""
    neutral_prompt_file: PromptFile | None = None
    """Text file with one neutral prompt per line, relative to this file."""
    prompt_file: PromptFile | None = None
    """The same as neutral_prompt_file."""
    action: Action | None = None
    guidance_scale: Finite | None = None
    resolution: SizesOption | None = None
    resolutions: SizesOption | None = None
    """Sizes of a slider, each [height, width] in pixels: pairs for each of them."""
    dynamic_resolution: bool | None = None
    batch_size: BatchSize | None = None
    dynamic_crops: bool | None = None
    multiplier: Finite | None = None
    weight: Finite | None = None
    preserve: Preserved | None = None
    """Prompts that shall stay as they are, for all entries; auto finds some."""

    @field_validator("*", mode="before")
    @classmethod
    def _written(cls, value: object) -> object:
        if value is None:
            raise refuse("has no value", 'write one, or remove the key; "" is the empty prompt')
        return value

    def over(self, defaults: Values) -> Values:
        """Return these values, with the defaults where this table does not say."""
        return defaults.model_copy(update=self.said())

    def said(self) -> dict[str, object]:
        """What the table says, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def read_values(table: Mapping[str, object], key: Key, findings: Findings) -> Values:
    """Read the known keys of one table; what is wrong goes to ``findings``. Unknown keys are the caller's."""
    known = {name: value for name, value in table.items() if name in Values.model_fields}
    for name in _LISTS:
        if known.get(name, name) is None:
            del known[name]
    return read_model(Values, known, key, findings) or Values()
