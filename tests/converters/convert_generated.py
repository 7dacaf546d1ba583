"""Generated prompt files of every form, as trees and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tomlkit
import yaml
from hypothesis import strategies as st

from leco_plugin.config.schema import PromptPair

Tree = dict[str, Any]
NASTY = (
    "",
    " leading",
    "trailing ",
    "a # b",
    "#",
    "it's",
    'say "cheese"',
    '"',
    "''",
    "two\nlines",
    "\n",
    "tab\there",
    "back\\slash",
    "\\",
    "\\u0041",
    "a: b",
    "- a",
    "[a, b]",
    "{a}",
    "*alias",
    "&anchor",
    "<<",
    "no",
    "on",
    "1:30",
    "1e-4",
    "null",
    "~",
    "2024-01-01",
    "'''",
    '"""',
    ",",
    ", a",
    "=",
    "日本語、猫耳",
    "😀",
    "a\u2028b",
    "\ufeffa",
    "(masterpiece:1.2), best quality",
    "word " * 2000,
)
texts = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    st.text("ab,\"'\\#[]{}:=- \n\t", max_size=8),
)
sides = texts.filter(lambda text: bool(text.strip()))
numbers = st.one_of(
    st.integers(-3, 3), st.floats(-4, 4).map(lambda number: round(number, 3)), st.sampled_from([1e-5, 1e22, 0.5, 1.0])
)
multiples = st.integers(1, 128).map(lambda number: 8 * number)
sizes = st.one_of(multiples, st.tuples(multiples, multiples).map(list))
lists_of_sizes = st.lists(st.tuples(multiples, multiples).map(list), min_size=1, max_size=3)
neutral_lists = st.lists(texts, max_size=3)


def _optional(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[Tree]:
    return st.fixed_dictionaries({}, optional=values)


_common = {
    "guidance_scale": numbers,
    "batch_size": st.integers(1, 4),
    "multiplier": numbers,
    "weight": numbers,
    "dynamic_resolution": st.booleans(),
    "dynamic_crops": st.booleans(),
}
prompt_entries = st.builds(
    lambda target, rest: {"target": target, **rest},
    texts,
    _optional(
        positive=texts,
        unconditional=texts,
        neutral=texts,
        action=st.sampled_from(["erase", "enhance"]),
        resolution=sizes,
        **_common,
    ),
)
host_targets = st.one_of(
    st.fixed_dictionaries(
        {"target_class": texts, "positive": sides, "negative": texts},
        optional={"multiplier": numbers, "weight": numbers},
    ),
    st.fixed_dictionaries({"target_class": texts, "negative": sides}, optional={"weight": numbers}),
)
slider_entries = st.builds(
    lambda target, rest: {**target, **rest},
    host_targets,
    _optional(neutral=texts, resolution=sizes, resolutions=lists_of_sizes, **_common),
)
_preserved = st.lists(texts, max_size=3)


def _without_targets(tree: Tree) -> Tree:
    """What is to change cannot be preserved."""
    top = tree.get("slider", tree)
    entries = top.get("prompts") or top.get("targets") or [top]
    targets = {entry.get("target", entry.get("target_class", "")) for entry in entries}
    for key, name in (("preserve", None), ("anchors", "prompt")):
        if key in top:
            top[key] = [one for one in top[key] if (one[name] if name else one) not in targets]
    return tree


_flat = (slider_entries, prompt_entries)
prompt_trees = st.one_of(
    st.builds(
        lambda entries, top: {**top, "prompts": entries},
        st.lists(st.one_of(prompt_entries, slider_entries), min_size=1, max_size=3),
        _optional(positive=texts, neutral=texts, resolution=sizes, preserve=_preserved, **_common),
    ),
    st.builds(
        lambda entries, top: {**top, "targets": entries},
        st.lists(slider_entries, min_size=1, max_size=3),
        _optional(neutral=texts, neutrals=neutral_lists, resolution=sizes, preserve=_preserved, **_common),
    ),
    st.builds(
        lambda entries, top: {"slider": {**top, "targets": entries}},
        st.lists(slider_entries, min_size=1, max_size=2),
        _optional(neutral=texts, resolutions=lists_of_sizes, preserve=_preserved, **_common),
    ),
    *(st.builds(lambda entry, kept: {**entry, "preserve": kept}, one, _preserved) for one in _flat),
).map(_without_targets)
host_sliders = st.fixed_dictionaries(
    {"targets": st.lists(host_targets, min_size=1, max_size=3)},
    optional={
        "resolutions": lists_of_sizes,
        "anchors": st.lists(
            st.fixed_dictionaries({"prompt": texts}, optional={"multiplier": st.just(1.0)}), max_size=3
        ),
    },
).map(_without_targets)


def host_job(slider: Tree, **process: object) -> Tree:
    """A job of ai-toolkit that trains the slider."""
    model = {"name_or_path": "some/model"}
    one = {"type": "slider", "train": {"steps": 500}, "model": model, **process, "slider": slider}
    return {"job": "train", "config": {"name": "a_slider", "training_folder": "output", "process": [one]}}


def as_yaml(tree: object, *, quotes: str | None = None) -> str:
    """Write a tree as YAML, as other people's programs do; with ``quotes`` everything stands in them, with its tag."""
    return str(yaml.safe_dump(tree, sort_keys=False, default_style=quotes))


def as_toml(tree: Mapping[str, Any]) -> str:
    """Write a tree as TOML, as other people's programs do."""
    return tomlkit.dumps(tree)


def host_pairs(slider: Tree) -> list[PromptPair]:
    """The pairs that ai-toolkit's slider trains: strength 1, from the empty prompt, at every resolution."""
    pairs: list[PromptPair] = []
    for target in slider["targets"]:
        for size in slider.get("resolutions", [[512, 512]]):
            pairs += _target_pairs(target, size)
    return pairs


def host_preserve(slider: Tree) -> tuple[str, ...]:
    """The prompts of its anchors, each once."""
    return tuple(dict.fromkeys(anchor["prompt"] for anchor in slider.get("anchors", [])))


def _target_pairs(target: Tree, size: Sequence[int]) -> list[PromptPair]:
    up, down = target.get("positive", ""), target.get("negative", "")
    strength = float(target.get("multiplier", 1.0))
    if not up.strip():
        rows = [(down, "", "erase", strength), (down, "", "enhance", -strength)]
    elif not down.strip():
        rows = [(up, "", "enhance", strength), (up, "", "erase", -strength)]
    else:
        rows = [
            (down, up, "erase", strength),
            (up, down, "enhance", strength),
            (up, down, "erase", -strength),
            (down, up, "enhance", -strength),
        ]
    return [
        PromptPair(
            target=target["target_class"],
            positive=positive,
            unconditional=unconditional,
            action=action,  # type: ignore[arg-type]
            multiplier=multiplier,
            weight=float(target.get("weight", 1.0)),
            resolution=(size[0], size[1]),
        )
        for positive, unconditional, action, multiplier in rows
    ]
