"""The `sample:` section: pictures while a run goes on, with ai-toolkit's keys and prompt flags."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from leco_plugin.config.blame import refuse
from leco_plugin.config.findings import shorten
from leco_plugin.config.kinds import Finite, Frozen, Side, Whole
from leco_plugin.config.names import SamplerName

Number = Callable[[str], int | float | str]
_FLAGS: dict[str, tuple[str, Number, str]] = {
    "m": ("network_multiplier", float, "a number"),
    "n": ("neg", str, "text"),
    "w": ("width", int, "a whole number"),
    "h": ("height", int, "a whole number"),
    "d": ("seed", int, "a whole number"),
    "l": ("guidance_scale", float, "a number"),
    "s": ("sample_steps", int, "a whole number"),
}
_LONG = {"network_multiplier": "m", "seed": "d", "cfg": "l", "steps": "s"}
_SPLIT = re.compile(r"(?:^|\s)--(?=[A-Za-z])")


def _none_is_empty(value: object) -> object:
    """ai-toolkit's own default for no negative prompt is false."""
    return "" if value is False else value


_NEGATIVE = WithJsonSchema({"anyOf": [{"type": "string"}, {"const": False}]})
_NEGATIVE_OR_NONE = WithJsonSchema({"anyOf": [{"type": "string"}, {"enum": [False, None]}]})


class SamplePrompt(Frozen):
    """A prompt to draw; what it does not say is as the section says."""

    prompt: str
    """What is drawn."""
    neg: Annotated[str | None, BeforeValidator(_none_is_empty), _NEGATIVE_OR_NONE] = None
    network_multiplier: Finite | None = None
    width: Side | None = None
    height: Side | None = None
    seed: Whole | None = Field(None, ge=0, lt=2**63)
    guidance_scale: Finite | None = Field(None, ge=0)
    sample_steps: Whole | None = Field(None, ge=1, le=1000)

    @model_validator(mode="before")
    @classmethod
    def _with_flags(cls, value: object) -> object:
        """Take ``"a cat --m 2 --n ugly"`` for the table that it means; flags in a table's prompt count, too."""
        table = {"prompt": value} if isinstance(value, str) else value
        if not isinstance(table, dict) or not isinstance(table.get("prompt"), str):
            return value
        return {**table, **_read_flags(table["prompt"])}

    @model_serializer(mode="wrap")
    def _said(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """What it says, without what it leaves to the section."""
        return {name: value for name, value in dump(self).items() if value is not None}


Prompts = Annotated[tuple[SamplePrompt, ...], Field(strict=False)]


class SampleConfig(Frozen):
    """Pictures while training, in the folder `samples` beside the LoRA; none without prompts."""

    prompts: Prompts = ()
    """What to draw; flags after a prompt: --m multiplier, --n negative, --w, --h, --d seed, --l guidance, --s steps."""
    samples: Prompts = ()
    """The same as tables with prompt, neg, network_multiplier, width, height, seed, guidance_scale, sample_steps."""
    sample_every: Whole = Field(100, ge=1)
    """Draw every so many optimizer steps, besides before the first and after the last."""
    multipliers: Annotated[tuple[Finite, ...], Field(strict=False)] = ()
    """Strengths of the LoRA side by side for prompts without --m; the base model is always there."""
    network_multiplier: Finite | None = None
    """One such strength; 1 where neither says anything."""
    width: Side = 512
    """Pixels."""
    height: Side = 512
    """Pixels."""
    neg: Annotated[str, BeforeValidator(_none_is_empty), _NEGATIVE] = ""
    """Negative prompt."""
    seed: Whole = Field(0, ge=0, lt=2**63)
    """Fixes the noise that a picture starts from."""
    walk_seed: bool = False
    """Every prompt has a seed of its own: `seed`, `seed` + 1, ..."""
    guidance_scale: Finite = Field(7.0, ge=0)
    """Guidance of the picture, not an edit strength; when absent, 4 for flow models, and 1 where they are distilled."""
    sample_steps: Whole = Field(20, ge=1, le=1000)
    """Sampler steps of a picture; when absent, a distilled flow model's own."""
    sampler: SamplerName = "ddim"
    """Sampler of the pictures; flow models have their own."""
    from_step: Whole = Field(0, ge=0)
    """Sampler steps before the LoRA is switched on; a few keep the composition of the base model."""
    format: Literal["png", "jpg", "webp"] = "png"
    """Kind of the files."""

    @model_validator(mode="after")
    def _one_list(self) -> SampleConfig:
        # those of ai-toolkit's web UI have both
        if self.prompts and self.samples and self.prompts != self.samples:
            raise refuse("prompts and samples mean the same, and differ", "keep one of the two")
        return self

    @property
    def asked(self) -> tuple[SamplePrompt, ...]:
        """The prompts, wherever they stand."""
        return self.prompts or self.samples


def _read_flags(text: str) -> dict[str, object]:
    """The prompt in ``text`` and the values of the flags after it."""
    prompt, *parts = _SPLIT.split(text)
    values: dict[str, object] = {"prompt": prompt.strip()}
    for part in parts:
        flag, _, content = part.partition(" ")
        short = _LONG.get(flag, flag)
        if short not in _FLAGS:
            there = ", ".join(f"--{name}" for name in _FLAGS)
            raise refuse(f"no flag of a prompt is called --{flag}", f"take it out; there are {there}")
        name, read, wanted = _FLAGS[short]
        try:
            values[name] = read(content.strip())
        except ValueError:
            message = f"--{flag} must be {wanted}, not '{shorten(content.strip())}'"
            raise refuse(message, f"write --{flag} 1") from None
    return values
