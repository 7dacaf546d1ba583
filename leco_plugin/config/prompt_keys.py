"""Which keys each kind of prompt table reads, and what to say about one that stands in the wrong kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from leco_plugin.config.findings import Findings, Key, did_you_mean

_COMMON = frozenset(
    {"positive", "neutral", "guidance_scale", "resolution", "dynamic_resolution", "batch_size"}
    | {"dynamic_crops", "multiplier", "weight"}
)
NEUTRAL_LISTS = ("neutrals", "neutral_prompt_file", "prompt_file")
_PROMPT = _COMMON | {"target", "unconditional", "action"}
_SLIDER = _COMMON | {"target_class", "negative", "resolutions"}
FOR_ALL = frozenset({"preserve"})
"""What stands at the top only, since it holds for all entries."""
ROOT_KEYS = _PROMPT | _SLIDER | {*NEUTRAL_LISTS, "prompts", "targets", "slider"} | FOR_ALL


@dataclass(frozen=True)
class Kind:
    """The keys of one kind of table; ``misplaced`` gives message and fix for keys that belong elsewhere."""

    known: frozenset[str]
    misplaced: Mapping[str, tuple[str, str]]

    def check(self, table: Mapping[str, object], key: Key, findings: Findings, also: Collection[str] = ()) -> None:
        """Note every key of ``table`` that this kind does not read; ``also`` lists further known ones."""
        known = self.known | set(also)
        for name in table:
            if name in known:
                continue
            if name in self.misplaced:
                findings.error((*key, name), *self.misplaced[name])
            else:
                guess = did_you_mean(name, known | self.misplaced.keys())
                findings.unknown((*key, name), {guess} if guess else known)


_HOLDS_FOR_ALL = dict.fromkeys(FOR_ALL, ("holds for all prompts", "move it to the top of the file"))
_ON_PROMPTS = {
    **_HOLDS_FOR_ALL,
    "negative": ("only sliders have a negative side", "write unconditional, or target_class for a slider"),
    "target_class": ("only sliders have a target_class, and this one is read as a prompt entry", "write target"),
    "resolutions": ("only sliders take several sizes", "write resolution, and one entry per size"),
    **dict.fromkeys(NEUTRAL_LISTS, ("only sliders take several neutrals", "write neutral, and one entry per neutral")),
}
_ON_SLIDERS = {
    **_HOLDS_FOR_ALL,
    "target": ("a slider does not read this key", "write target_class, or put a prompt entry in [[prompts]]"),
    "action": ("a slider sets the action of its pairs itself", "remove it, or swap positive and negative"),
    "unconditional": ("a slider measures each side against the other", "write the other side as negative"),
}
_NOT_BESIDE_PROMPTS = {
    **dict.fromkeys(("targets", "slider"), ("not read where [[prompts]] stands", "keep one of the two formats")),
    **dict.fromkeys(("negative", "target_class"), ("not a default of [[prompts]]", "write it in the entries")),
    "resolutions": ("not a default of [[prompts]]", "write it in the slider entries"),
    **dict.fromkeys(NEUTRAL_LISTS, ("not read where [[prompts]] stands", "use [[targets]] for sliders")),
}
_ON_PROMPTS_SLIDERS = {
    **_ON_SLIDERS,
    **dict.fromkeys(
        NEUTRAL_LISTS,
        ("a slider in [[prompts]] reads only its own neutral", "use [[targets]], or one entry per neutral"),
    ),
}

PROMPT_ENTRY = Kind(_PROMPT, _ON_PROMPTS)
SLIDER_ENTRY = Kind(_SLIDER | set(NEUTRAL_LISTS), _ON_SLIDERS)
SLIDER_IN_PROMPTS = Kind(_SLIDER, _ON_PROMPTS_SLIDERS)
ROOT_OF_PROMPTS = Kind(_PROMPT | FOR_ALL | {"prompts"}, _NOT_BESIDE_PROMPTS)
ROOT_OF_PROMPT_TARGETS = Kind(_PROMPT | FOR_ALL | {"targets"}, _ON_PROMPTS)
ROOT_OF_SLIDERS = Kind(_SLIDER | FOR_ALL | {"targets", *NEUTRAL_LISTS}, _ON_SLIDERS)
ROOT_OF_NOTHING = Kind(ROOT_KEYS, {})
ROOT_OF_SLIDER_TABLE = Kind(
    frozenset({"slider"}),
    dict.fromkeys(ROOT_KEYS - {"slider"}, ("not read beside [slider]", "move it below [slider]")),
)
