"""Goal reached and drift over a run, and what is said of a LoRA that does nothing."""

from __future__ import annotations

import pytest
import torch
from models import pair

from leco_plugin.config.schema import PromptPair
from leco_plugin.engine.concepts import watched_prompts
from leco_plugin.engine.progress import ENOUGH, MEMORY, Progress
from leco_plugin.engine.step import Measured


def measured(number: int = 0, **figures: float) -> Measured:
    return Measured(number, **{name: torch.tensor(value) for name, value in figures.items()})


def goal(now: float, before: float = 4.0, number: int = 0, contrast: float = 1.0) -> Measured:
    return measured(number, now=now, before=before, size=1.0, contrast=contrast)


def progress(*steps: Measured, pairs: tuple[PromptPair, ...] = (pair(),)) -> Progress:
    made = Progress(pairs)
    for step in steps:
        made.add([step])
    return made


def test_nothing_measured_is_no_figure():
    """Neither of goal nor of drift, and no complaint."""
    new = progress()
    assert (new.goal_reached, new.drift, new.complaints()) == (None, None, [])


def test_goal_reached_is_one_minus_now_over_before():
    """Over sums, older ones fading; a goal that is where the model is has no fraction."""
    assert progress(goal(3.0)).goal_reached == pytest.approx(0.25)
    assert progress(goal(3.0), goal(0.0, 8.0)).goal_reached == pytest.approx(1 - 3 * MEMORY / (4 * MEMORY + 8))
    assert progress(goal(0.0, 0.0)).goal_reached is None


def test_drift_is_measured_against_what_is_asked():
    """Targets are to move by 4 (squared), untouched prompts moved by 1 on average: a quarter."""
    made = progress(goal(3.0), measured(moved=1.0), goal(3.0), measured(moved=1.0))
    assert made.drift == pytest.approx(0.25)
    assert progress(measured(moved=1.0)).drift is None


def test_an_early_figure_is_not_trusted():
    """A run does not stop before there are measurements enough."""
    made = progress(*[goal(0.0)] * (ENOUGH - 1))
    assert not made.reached(0.9)
    made.add([goal(0.0)])
    assert made.reached(0.9)
    assert made.reached(1.0)
    assert not progress(*[goal(2.0)] * ENOUGH).reached(0.9)


def test_a_lora_that_does_nothing_is_said_to():
    """With the pair, the figure and the cure."""
    (overall, of_pair) = progress(*[goal(3.9)] * 5).complaints()
    assert "next to nothing" in overall
    assert "2 %" in overall
    assert "raise lr" in overall
    assert "'5'" in of_pair
    assert "multiplier 1" in of_pair


def test_a_lora_that_does_its_work_is_left_alone():
    """Three quarters of the goal."""
    assert progress(*[goal(1.0)] * 5).complaints() == []


def test_one_lazy_pair_among_others_is_named():
    """The run as a whole is fine."""
    pairs = (pair(positive=5), pair(positive=7, multiplier=-1.0))
    made = progress(*[goal(0.1, number=0)] * 9, *[goal(0.99, 1.0, number=1)] * 3, pairs=pairs)
    (complaint,) = made.complaints()
    assert "'7'" in complaint
    assert "multiplier -1" in complaint


def test_a_concept_that_the_model_does_not_see_is_named():
    """Positive and unconditional predict the same, whatever the goal asks besides."""
    (complaint,) = progress(*[goal(1.0, contrast=1e-9)] * 3, pairs=(pair(positive=5, unconditional=6),)).complaints()
    assert "'5'" in complaint
    assert "'6'" in complaint
    assert "the same to this model" in complaint


def test_a_goal_farther_away_than_before_asks_for_less():
    """It overshoots, or its goal is out of reach."""
    assert "lower guidance_scale" in progress(*[goal(8.0)] * 5).complaints()[0]


def test_figures_survive_a_resume():
    """State and restore give the same figures after the same measurements."""
    first = progress(goal(3.0), measured(moved=1.0))
    again = progress()
    again.restore(first.state())
    for made in (first, again):
        made.add([goal(1.0), measured(moved=3.0)])
    assert (again.goal_reached, again.drift) == (first.goal_reached, first.drift)


def test_what_is_watched_is_made_from_the_pairs():
    """Kept targets, what stands for "without the concept", and the empty prompt; never what is to change."""
    pairs = [
        PromptPair(target="a shape", positive="a big shape", unconditional="a small shape", neutral="a shape"),
        PromptPair(target="blue", positive="blue", neutral="blue", guidance_scale=0.0),
    ]
    assert watched_prompts(pairs) == ["blue", "a small shape", ""]
    mirrored = PromptPair(target="a shape", positive="a small shape", unconditional="a big shape", neutral="a shape")
    assert watched_prompts([*pairs, mirrored]) == ["blue", ""]
    assert watched_prompts([PromptPair(target="", positive="fog")]) == []


def test_the_pairs_of_a_slider_share_a_complaint():
    """One concept, seen from both sides."""
    pairs = (pair(positive=5, unconditional=6), pair(positive=6, unconditional=5), pair(positive=7, unconditional=5))
    made = progress(*(goal(1.0, number=number, contrast=0.0) for number in range(3)), pairs=pairs)
    first, second = made.unseen()
    assert "'5' (positive) and '6'" in first
    assert "'7'" in second
