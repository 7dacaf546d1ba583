"""Whatever a file holds: it converts, or it is refused with a reason.

LECO_GARBAGE_INPUTS sets how many inputs are tried; 10000 take some minutes.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import convert_generated as made
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from leco_converters import Request, convert

from leco_plugin.errors import LecoError

INPUTS = int(os.environ.get("LECO_GARBAGE_INPUTS", "500"))
WORDS = (
    "job: train",
    "job: extension",
    "config:",
    "process:",
    "type: slider",
    "type: concept_slider",
    "type: leco",
    "slider:",
    "leco:",
    "targets:",
    "prompts:",
    "target_class: a",
    "target: a",
    "positive: no",
    'negative: "x # y"',
    "neutrals: [a, 1, null]",
    "shuffle: true",
    "resolutions: [[512, 512]]",
    "resolutions: [512, [8]]",
    "resolution: 64",
    "multiplier: 1e-4",
    "weight: .nan",
    "guidance_scale: x",
    "prompt_file: none.txt",
    "model: {name_or_path: a/b}",
    "train: {steps: 5, lr: 1e-4, batch_size: two}",
    "network: [1]",
    "save:",
    "meta: {name: '[name]', list: [1]}",
    "name: 5",
    "prompts_file: ../x",
    "pretrained_model:",
    "<<: *a",
    "x: &a {b: 1}",
    "&a [*a]",
    "*a",
    "# comment",
    "|",
    "!!python/object:os.system",
    "!!int 1.5",
    "---",
    "...",
    "{",
    "]",
    '"',
    "? [a]: b",
    "\t",
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), made.texts)
KEYS = st.sampled_from(
    [
        *("job", "config", "process", "type", "slider", "leco", "targets", "prompts", "target", "target_class"),
        *("positive", "negative", "neutral", "neutrals", "resolution", "resolutions", "multiplier", "weight"),
        *("shuffle", "anchors", "train", "model", "network", "save", "sample", "name", "name_or_path", "steps"),
        *("meta", "prompts_file", "lr"),
    ]
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
SECTIONS = st.dictionaries(
    st.sampled_from(["train", "network", "save", "sample", "leco", "device", "training_seed"]), TREES, max_size=3
)
JOBS = st.one_of(
    st.builds(lambda slider, rest: made.host_job(slider, **rest), made.host_sliders, SECTIONS),
    st.builds(
        lambda slider, rest, kind: _job(slider, rest, kind),
        TREES,
        SECTIONS,
        st.sampled_from(["slider", "concept_slider", "leco"]),
    ),
)


def _job(slider: object, rest: dict[str, object], kind: str) -> made.Tree:
    return {"job": "extension", "config": {"name": "n", "process": [{**rest, "type": kind, "slider": slider}]}}


@st.composite
def _lines(draw: st.DrawFn) -> str:
    """Lines of known words at odd depths."""
    lines = draw(
        st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["", "- "]), st.sampled_from(WORDS)), max_size=12)
    )
    return "\n".join("  " * depth + dash + word for depth, dash, word in lines)


@st.composite
def _damaged(draw: st.DrawFn) -> str:
    """A good file with a piece cut out, or something put in."""
    tree = draw(st.one_of(made.prompt_trees, made.host_sliders.map(made.host_job)))
    text = draw(st.sampled_from([made.as_yaml, made.as_toml]))(tree)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 20)))
    return text[:start] + draw(st.sampled_from(["", *WORDS, "\n", "=", "[[", "\x00"])) + text[end:]


GARBAGE = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    _lines().map(str.encode),
    _damaged().map(lambda text: text.encode("utf-8", "surrogatepass")),
    TREES.map(lambda tree: made.as_yaml(tree).encode("utf-8", "surrogatepass")),
    JOBS.map(lambda tree: made.as_yaml(tree).encode("utf-8", "surrogatepass")),
)


@settings(max_examples=INPUTS, deadline=None, suppress_health_check=list(HealthCheck))
@given(GARBAGE, st.sampled_from([".yaml", ".toml", ".json"]), st.sampled_from(["toml", "leco-job", "ai-toolkit", None]),
       st.booleans())  # fmt: skip
def test_garbage_converts_or_is_refused(data: bytes, ending: str, to: str | None, job: bool):
    """Never a traceback, and nothing but finished files is left."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / f"source{ending}"
        source.write_bytes(data)
        options = {"job": job, "flags": job} if to in ("toml", None) and ending != ".toml" else {}
        try:
            result = convert(Request(source, to=to, **options))  # type: ignore[arg-type]
        except LecoError:
            event("refused")
            left = [source]
        else:
            event("converted")
            left = [source, *result.written]
        assert sorted(Path(name).iterdir()) == sorted(left)
