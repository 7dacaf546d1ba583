"""What cannot be meant is refused at its line, with a fix; all of a file at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from leco_plugin.errors import Problem

Refusals = Callable[..., tuple[Problem, ...]]
SLIDER = 'target_class = "c"\npositive = "p"\nnegative = "n"\n'
PROMPT = '[[prompts]]\ntarget = "a"\n'


def summary(problem: Problem) -> tuple[int | None, str]:
    assert problem.where is not None
    assert problem.fix
    return problem.where.line, problem.where.key


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        # keys that nothing reads
        (f"{PROMPT}guidence_scale = 2\n", 3, "prompts[0].guidence_scale", "did you mean 'guidance_scale'"),
        (f"{PROMPT}zzz = 2\n", 3, "prompts[0].zzz", "unknown key"),
        (f"{PROMPT}negative = 'n'\n", 3, "prompts[0].negative", "only sliders have a negative"),
        (f"{PROMPT}resolutions = [[64, 64]]\n", 3, "prompts[0].resolutions", "only sliders take several sizes"),
        (f"{PROMPT}neutrals = ['x']\n", 3, "prompts[0].neutrals", "only sliders take several neutrals"),
        (f"[[targets]]\n{SLIDER}[[targets]]\n{SLIDER}target = 'x'\n", 9, "targets[1].target", "write target_class"),
        (f"target = 'x'\n[[targets]]\n{SLIDER}", 1, "target", "write target_class"),
        (f"[[targets]]\n{SLIDER}action = 'erase'\n", 5, "targets[0].action", "sets the action"),
        (f"[[targets]]\n{SLIDER}wieght = 1\n", 5, "targets[0].wieght", "did you mean 'weight'"),
        (f"[[prompts]]\n{SLIDER}neutrals = ['x']\n", 5, "prompts[0].neutrals", "only its own neutral"),
        (f"batchsize = 2\n[[targets]]\n{SLIDER}", 1, "batchsize", "did you mean 'batch_size'"),
        (f"unconditional = 'x'\n[[targets]]\n{SLIDER}", 1, "unconditional", "measures each side"),
        (f"resolutions = [[64, 64]]\n{PROMPT}", 1, "resolutions", "not a default"),
        (f"neutrals = ['x']\n{PROMPT}", 1, "neutrals", "not read where [[prompts]] stands"),
        (f"{PROMPT}[[targets]]\n{SLIDER}", 3, "targets", "keep one of the two"),
        (f"resolution = 64\n[slider]\n{SLIDER}", 1, "resolution", "move it below [slider]"),
        (f"[slider]\n{SLIDER}prompts = []\n", 5, "slider.prompts", "unknown key"),
        ("[[targets]]\ntarget = 'a'\n[[targets]]\ntarget_class = 'c'\ntarget = 'b'\n", 4, "targets[1].target_class",
         "read as a prompt entry"),
        ("neutrals = ['x']\n[[targets]]\ntarget = 'a'\n", 1, "neutrals", "only sliders take several neutrals"),
        # wrong types
        (f"{PROMPT}guidance_scale = '2'\n", 3, "prompts[0].guidance_scale", "remove the quotes"),
        (f"{PROMPT}guidance_scale = true\n", 3, "prompts[0].guidance_scale", "must be a number"),
        (f"{PROMPT}weight = nan\n", 3, "prompts[0].weight", "finite"),
        (f"{PROMPT}multiplier = -inf\n", 3, "prompts[0].multiplier", "finite"),
        (f"{PROMPT}positive = 3\n", 3, "prompts[0].positive", "must be text, not the number 3"),
        (f"{PROMPT}neutral = ['x']\n", 3, "prompts[0].neutral", "must be text, not a list"),
        (f"{PROMPT}positive = 2020-01-01\n", 3, "prompts[0].positive", "a date or time"),
        (f"{PROMPT}dynamic_crops = 1\n", 3, "prompts[0].dynamic_crops", "true or false"),
        (f"{PROMPT}dynamic_resolution = 'no'\n", 3, "prompts[0].dynamic_resolution", "true or false"),
        (f"{PROMPT}batch_size = 0\n", 3, "prompts[0].batch_size", "at least 1"),
        (f"{PROMPT}batch_size = 1.5\n", 3, "prompts[0].batch_size", "whole number"),
        (f"{PROMPT}action = 'Erase'\n", 3, "prompts[0].action", "did you mean 'erase'"),
        (f"{PROMPT}action = 'remove'\n", 3, "prompts[0].action", "must be erase or enhance"),
        # sizes
        (f"{PROMPT}resolution = 500\n", 3, "prompts[0].resolution", "did you mean 496"),
        (f"{PROMPT}resolution = 512.5\n", 3, "prompts[0].resolution", "whole number"),
        (f"{PROMPT}resolution = '512'\n", 3, "prompts[0].resolution", "remove the quotes"),
        (f"{PROMPT}resolution = [512]\n", 3, "prompts[0].resolution", "one number or two, not 1"),
        (f"{PROMPT}resolution = []\n", 3, "prompts[0].resolution", "one number or two, not 0"),
        (f"{PROMPT}resolution = [[64, 64]]\n", 3, "prompts[0].resolution", "only sliders take several sizes"),
        (f"{PROMPT}resolution = [\n 64,\n 0]\n", 5, "prompts[0].resolution[1]", "positive multiple of 8"),
        (f"[[targets]]\n{SLIDER}resolutions = []\n", 5, "targets[0].resolutions", "one number or two"),
        (f"[[targets]]\n{SLIDER}resolutions = [64, [64, 64]]\n", 5, "targets[0].resolutions", "one size or several"),
        (f"[[targets]]\n{SLIDER}resolutions = [[64, 64], [64, 65]]\n", 5, "targets[0].resolutions[1][1]", "multiple"),
        # neutrals
        (f"[[targets]]\n{SLIDER}neutrals = 'abc'\n", 5, "targets[0].neutrals", "must be a list"),
        (f"[[targets]]\n{SLIDER}neutrals = ['a', 2]\n", 5, "targets[0].neutrals[1]", "must be text"),
        (f"[[targets]]\n{SLIDER}neutral_prompt_file = 'no.txt'\n", 5, "targets[0].neutral_prompt_file", "no such file"),
        (f"prompt_file = ''\n[[targets]]\n{SLIDER}", 1, "prompt_file", "empty"),
        (f"prompt_file = '.'\n[[targets]]\n{SLIDER}", 1, "prompt_file", "a folder"),
        # the whole
        ("", None, "", "there are no prompts"),
        ("resolution = 64\n", None, "", "nothing to train"),
        ("[prompts]\ntarget = 'a'\n", 1, "prompts", "two brackets"),
        ("[targets]\ntarget_class = 'a'\n", 1, "targets", "two brackets"),
        ("prompts = []\n", 1, "prompts", "empty"),
        ("targets = []\n", 1, "targets", "empty"),
        ("prompts = ['a']\n", 1, "prompts[0]", "must be a table"),
        ("prompts = 'a'\n", 1, "prompts", "must be a list of tables"),
        ("slider = 1\n", 1, "slider", "must be a table"),
        ("[[prompts]]\npositive = 'a'\n", 1, "prompts[0]", "target is missing"),
        ("[[targets]]\ntarget_class = 'a'\npositive = ' '\n", 1, "targets[0]", "positive or a negative side"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_problem_at_its_line(refusals: Refusals, text: str, line: int | None, key: str, says: str):
    """File, line, key, what is wrong and how to put it right."""
    (problem,) = refusals(text)
    assert summary(problem) == (line, key)
    assert says in f"{problem.message} {problem.fix}"


def test_all_mistakes_of_a_file_are_reported_in_its_order(refusals: Refusals):
    """None hides another."""
    text = "resolution = 5\nbogus = 1\n[[targets]]\ntarget_class = 1\nneutrals = ''\n[[targets]]\npositiv = 'x'\n"
    assert [summary(problem) for problem in refusals(text)] == [
        (1, "resolution"),
        (2, "bogus"),
        (3, "targets[0]"),
        (4, "targets[0].target_class"),
        (5, "targets[0].neutrals"),
        (6, "targets[1]"),
        (7, "targets[1].positiv"),
    ]


def test_a_misspelt_table_is_named(refusals: Refusals):
    """Beside the fact that there is nothing to train."""
    problems = refusals("[[target_s]]\ntarget_class = 'a'\n")
    assert any("did you mean 'targets'" in problem.fix for problem in problems)


def test_a_list_in_yaml_is_not_a_prompt_file(refusals: Refusals):
    """LECO's own YAML starts with a list; what makes a prompt file of it is said, or what a list of texts lacks."""
    (problem,) = refusals("- target: a\n- target: b\n", name="x.yaml")
    assert problem.message.startswith("this is a list of prompts")
    assert "leco convert" in problem.message
    (problem,) = refusals("- a\n- b\n", name="x.yaml")
    assert "start with prompts:" in problem.fix


def test_a_neutral_file_in_another_encoding_is_blamed(refusals: Refusals, tmp_path: Path):
    """With the line in that file, at the key that names it."""
    (tmp_path / "n.txt").write_bytes(b"a\nb\xff\n")
    (problem,) = refusals(f"neutral_prompt_file = 'n.txt'\n[[targets]]\n{SLIDER}")
    assert summary(problem) == (1, "neutral_prompt_file")
    assert "n.txt:2: the text is not UTF-8" in problem.message


def test_too_many_pairs_are_refused_quickly(refusals: Refusals):
    """Sizes times neutrals can be large without any alias."""
    many = ", ".join(["[64, 64]"] * 400)
    neutrals = ", ".join(["'n'"] * 400)
    (problem,) = refusals(f"[[targets]]\n{SLIDER}resolutions = [{many}]\nneutrals = [{neutrals}]\n")
    assert "more than 100000 pairs" in problem.message
