"""The text of a prompt survives exactly, whatever YAML or TOML would make of it."""

from __future__ import annotations

import json
from pathlib import Path

import convert_generated as made
import pytest
from convert_results import Convert, Refused, both_trees
from leco_converters import Request, convert
from leco_converters.command import main

from leco_plugin.config.build import load_job, load_prompts


@pytest.mark.parametrize("text", made.NASTY, ids=lambda text: ascii(text[:20]))
def test_a_text_survives_in_both_directions(text: str, tmp_path: Path):
    """As a prompt and as one neutral of several."""
    tree = {"neutrals": [text, "b"], "targets": [{"target_class": text, "positive": f"x{text}"}]}
    (tmp_path / "a.yaml").write_text(made.as_yaml(tree, quotes='"'))
    convert(Request(tmp_path / "a.yaml", tmp_path / "b.toml"))
    assert both_trees(tmp_path / "b.toml") == (tree, tree)
    convert(Request(tmp_path / "b.toml", tmp_path / "c.yaml", to="leco-job"))
    pairs = load_job(tmp_path / "c.yaml").job.pairs
    assert pairs == load_prompts(tmp_path / "b.toml").pairs
    assert {pair.target for pair in pairs} == {text}


@pytest.mark.parametrize(
    "text", ["no", "on", "1:30", "1e-4", "007", "1.50", "true", "0x1F", "2024-01-01", "1_000", ".5"]
)
@pytest.mark.parametrize("key", ["positive", "target_class", "neutral"])
def test_a_bare_word_in_a_prompts_place_is_the_text_it_is(text: str, key: str, to_toml: Convert):
    """Also where YAML reads a number or a switch."""
    entry = {"target_class": "a", "positive": "b"} | {key: text}
    lines = "".join(f"\n    {name}: {value}" for name, value in entry.items())
    pair = to_toml(f"targets:\n  -{lines[4:]}\n").pairs[0]
    names = {"positive": "positive", "target_class": "target", "neutral": "neutral"}
    assert getattr(pair, names[key]) == text


def test_a_bare_neutral_is_the_text_it_is(to_toml: Convert):
    """In a list of neutrals too."""
    result = to_toml("neutrals: [1, no, 1e-4, a]\ntargets: [{target_class: a, positive: b}]\n")
    assert list(dict.fromkeys(pair.neutral for pair in result.pairs)) == ["1", "no", "1e-4", "a"]


def test_an_empty_place_is_the_empty_prompt_and_the_report_says_so(to_toml: Convert):
    """People leave target_class empty for everything."""
    result = to_toml("targets:\n  - target_class:\n    positive: a\n")
    assert result.pairs[0].target == ""
    assert result.notes("targets[0].target_class")


def test_numbers_of_every_spelling_are_numbers(to_toml: Convert):
    """1e-4 is text for YAML 1.1."""
    pair = to_toml("- {target: a, guidance_scale: 1e-4, weight: 5E-1, multiplier: 2, batch_size: 2e0}\n").pairs[0]
    assert (pair.guidance_scale, pair.weight, pair.multiplier, pair.batch_size) == (1e-4, 0.5, 2, 2)


def test_block_scalars_and_joined_lines_are_what_yaml_says(to_toml: Convert):
    """With their line ends, and what looks like a comment in them."""
    text = (
        "- target: |\n    one # no comment\n    two\n  positive: >-\n    folded\n    text\n  neutral: plain\n    text\n"
    )
    pair = to_toml(text).pairs[0]
    assert (pair.target, pair.positive, pair.neutral) == ("one # no comment\ntwo\n", "folded text", "plain text")


def test_pairs_of_escapes_join_to_one_character(to_toml: Convert):
    """JSON writes characters beyond U+FFFF so, and YAML takes JSON."""
    assert to_toml('- {"target": "\\ud83d\\ude00"}\n').pairs[0].target == "😀"


def test_half_a_pair_is_refused(refused: Refused):
    """No file can hold it."""
    (problem,) = refused('- target: "\\ud83d"\n')
    assert "surrogate" in problem.message


@pytest.mark.parametrize("key", ["x" * 200, "x" * 1200, "a\nb", "a: b", "[a]", "? a"], ids=len)
def test_a_key_of_any_length_stands_where_it_is_left_out(key: str, tmp_path: Path):
    """As a comment, before its colon; nothing in a file can keep it from being written."""
    slider = {"targets": [{"target_class": "a", "positive": "b"}], key: {key: 1}}
    process = {"type": "slider", "model": {"name_or_path": "m"}, "slider": slider, key: [1, {key: 2}]}
    tree = {"job": "extension", "config": {"name": "x", "process": [process]}}
    (tmp_path / "a.json").write_text(json.dumps(tree))
    assert main([str(tmp_path / "a.json"), "--job", str(tmp_path / "job.yaml")]) == 0
    assert load_job(tmp_path / "job.yaml").job.pairs


def test_half_a_pair_in_json_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """With the same words, and nothing about the folder; nothing is left there."""
    (tmp_path / "a.json").write_text('{"targets": [{"target_class": "\\ud800", "positive": "b", "negative": "c"}]}')
    assert main([str(tmp_path / "a.json")]) == 2
    assert "half of a character pair (a lone surrogate) is no text" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_ai_toolkit_does_not_take_a_prompt_for_a_variable(to_yaml: Convert):
    """It replaces ${...} in the whole text of a file before reading it, comments too."""
    result = to_yaml('[[targets]]\ntarget_class = "a"\npositive = "${HOME}"  # ${HOME}\n')
    assert "${" not in result.text
    assert '"\\x24{HOME}"' in result.text


def test_a_comment_cannot_end_its_line(to_yaml: Convert):
    """A line separator in a comment of TOML would begin a new line of YAML."""
    result = to_yaml('[[targets]]\ntarget_class = "a"\npositive = "b"  # c\u2028weight: 5\n', to="leco-job")
    assert {pair.weight for pair in load_job(result.path).job.pairs} == {1.0}
    assert "# c weight: 5" in result.text
