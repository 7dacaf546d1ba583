"""What the built-in model makes of prompts, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from models import CPU

from leco_plugin.commands import main as cli
from leco_plugin.config.schema import PromptPair
from leco_plugin.engine.measure import Course
from leco_plugin.engine.prompt_check import PromptCheck, check_prompts, pull
from leco_plugin.families.load import load_model

COURSE = Course(steps=6, samples=1, most_states=3)


def pair(target: str, positive: str, unconditional: str, neutral: str, **more: object) -> PromptPair:
    prompts = {"target": target, "positive": positive, "unconditional": unconditional, "neutral": neutral}
    return PromptPair(**{**prompts, "resolution": (64, 64), **more})


def checked(*pairs: PromptPair, preserve: tuple[str, ...] = ()) -> PromptCheck:
    denoiser = load_model("builtin:tiny", dtype="fp32", device=CPU)
    return check_prompts(denoiser, pairs, preserve, COURSE)


def test_good_prompts_raise_nothing() -> None:
    """A slider and an erasure whose default neutral is the empty prompt; their contrasts are known."""
    found = checked(
        pair("a shape", "a big shape", "a small shape", "a shape"), pair("red", "red", "", ""), preserve=("blue",)
    )
    assert found.problems == ()
    assert all(one.contrast > 3e-4 for one in found.pairs)
    assert max(map(pull, found.pairs)) < 0.05


def test_a_contrast_that_the_model_does_not_see_is_told() -> None:
    """The same tokens are the same; another letter is hardly another thing. A pair that keeps its target is fine."""
    found = checked(
        pair("a shape", "a Shape", "a shape", "a shape"),
        pair("a shape", "a x shape", "a y shape", "a shape"),
        pair("red", "red", "red", "red", guidance_scale=0.0),
        pair("blue", "green", "", "blue"),
    )
    messages = [problem.message for problem in found.problems]
    assert len(messages) == 2
    assert "'a Shape' and unconditional 'a shape' are the same to the model" in messages[0]
    assert "hardly sees a difference between positive 'a x shape'" in messages[1]


def test_a_neutral_of_another_meaning_is_told() -> None:
    """It pulls the target away; the same pair with the target as its neutral does not."""
    prompts = ("a red circle", "a big red circle", "a small red circle")
    (problem,) = checked(pair(*prompts, "a green star"), pair(*prompts, "a red circle")).problems
    assert "the neutral 'a green star' pulls the target 'a red circle' away" in problem.message
    assert problem.fix.startswith("write neutral = 'a red circle'")


def test_unknown_words_and_cut_ends_are_told() -> None:
    """Once each, preserved prompts included; words of the model's vocabulary are not."""
    long = "red " * 90
    found = checked(pair("red", "red", "", ""), pair(long, long, "", ""), preserve=("a xylophone",))
    messages = [problem.message for problem in found.problems]
    assert [message for message in messages if "xylophone" in message] == [
        "the model does not know the word 'xylophone': it reads 9 pieces"
    ]
    assert len([message for message in messages if "only the beginning" in message]) == 1
    assert len(messages) == 2


def test_the_command_says_it_beside_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object with both; a prompt file needs the name of a model, and what it does not load is an error."""
    path = tmp_path / "p.toml"
    path.write_text('resolution = 64\n[[prompts]]\ntarget = "red"\nneutral = "a green star"\n', "utf-8")
    assert cli.main(["check", str(path), "--json", "--model", "builtin:tiny"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["pairs"][0]["target"] == "red"
    assert tree["model_check"]["model"] == "builtin:tiny"
    assert "pulls the target" in tree["model_check"]["problems"][0]["message"]
    assert cli.main(["check", str(path), "--model"]) == 2
    assert "--model MODEL" in capsys.readouterr().err
