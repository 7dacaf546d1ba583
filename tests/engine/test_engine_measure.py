"""What a LoRA does is measured as it is defined: on a model whose answers are known, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from models import LineModel, pair

from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.engine.figures import Measured
from leco_plugin.engine.measure import HELD_OUT, Bench, Course, NoNetwork, _stops, _Sums

COURSE = Course(steps=5, guidance=1.0, samples=2, most_states=2)
SLIDER = [
    pair(2, 5, 1, 2, action="enhance", multiplier=1),
    pair(2, 5, 1, 2, action="erase", multiplier=-1),
]
"""At +1 the model shall say 2 + 4, at -1 it shall say 2 - 4."""


def measure(model: LineModel, *strengths: float, pairs=tuple(SLIDER), untouched=("7", ""), **how: object) -> Measured:
    return Bench(model, model.network, pairs, untouched, COURSE).measure(strengths, **how)


def test_goal_reached_is_what_is_gone_of_the_distance():
    """With 1 of 4 on the way, 1 - (3/4)^2; twice as strong, 1 - (2/4)^2; four times, all; six times, less again."""
    measured = measure(LineModel(lora=1.0), 1, 2, 4, 6, -2)
    expected = {1: 1 - 9 / 16, 2: 1 - 4 / 16, 4: 1.0, 6: 1 - 4 / 16, -2: 1 - 4 / 16}
    assert {at: measured.reached(at) for at in expected} == pytest.approx(expected)


def test_the_sides_of_a_slider_are_judged_by_their_own_pairs():
    """A LoRA that reaches only the positive end has nothing at the other; at 0 there is nothing either."""
    measured = measure(LineModel(lora=4.0), 1, 0, pairs=SLIDER[:1])
    assert measured.reached(1) == pytest.approx(1)
    assert measured.reached(0) == 0
    assert measure(LineModel(lora=4.0), -1, pairs=SLIDER[:1]).reached(-1) is None


def test_the_effect_has_a_sign_and_the_concept_as_its_unit():
    """The concept is 5 - 1 = 4, whatever edit strength is asked for; at the other side of the slider it is negative."""
    twice = [one.model_copy(update={"guidance_scale": 2.0}) for one in SLIDER]
    for pairs, asked in ((SLIDER, 1), (twice, 2)):
        measured = measure(LineModel(lora=1.0), -4, 1, 8, pairs=pairs)
        assert [measured.effect(at).along for at in (-4, 1, 8)] == pytest.approx([-1, 0.25, 2])
        assert measured.asked == pytest.approx(asked)
        assert measured.effect(8).beside == pytest.approx(0, abs=1e-6)


def test_the_whole_effect_ends_where_the_edit_leads_to():
    """From 2 the concept 5 - 1 leads to 5, or to 1 at the other end: 3/4 and 1/4; erasing 5 leads to nothing at all."""
    assert [measure(LineModel(), pairs=[one]).whole for one in SLIDER] == pytest.approx([3 / 4, 1 / 4])
    assert measure(LineModel(), pairs=[pair(5, 5, 0, 0)]).whole == pytest.approx(1)
    assert measure(LineModel(), pairs=[pair(5, 5, 0, 3, guidance_scale=0.0)]).whole == pytest.approx(1)


def test_what_is_no_concept_is_the_side_effect():
    """A change of (4, 3) where the concept is (4, 0) has effect 1 and a side effect of three quarters."""
    half = torch.zeros(1, 2, 1, 1)
    concept, beside = half.clone(), half.clone()
    concept[:, 0], beside[:, 1] = 4.0, 3.0
    sums = _Sums(PromptPair(target="", positive="x", action="enhance"))
    sums.add([half, half, concept, half], {1.0: concept + beside}, 0.5)
    effect = Measured((sums.figures(),), {}, states=1).effect(1.0)
    assert (effect.along, effect.beside) == pytest.approx((1, 0.75))


def test_states_count_as_they_do_in_the_picture():
    """An epsilon at a fourth of the noise's power counts a fourth: both states move by 1 of 4, and nothing changes."""
    model = LineModel(lora=1.0)
    model.snr_by_timestep = {10: 4.0, 20: 1.0, 30: 0.5, 40: 0.25}
    weighted, even = measure(model, 1), measure(LineModel(lora=1.0), 1)
    assert weighted.effect(1).along == even.effect(1).along == pytest.approx(0.25)
    assert weighted.concept != pytest.approx(even.concept)
    assert weighted.drift(1) == pytest.approx(even.drift(1))


def test_drift_has_the_concept_as_its_unit():
    """Untouched prompts that move by 1 where the concept is 4 have drifted by a quarter; twice as strong, by a half."""
    measured = measure(LineModel(lora=1.0), 1, 2)
    assert [measured.drift(at) for at in (1, 2)] == pytest.approx([1 / 4, 2 / 4])
    assert measure(LineModel(lora=1.0), 1, drift=False).drift(1) is None


def test_monotonicity_is_net_effect_over_all_its_changes():
    """1 where every strength goes further, None where nothing moves, however the strengths are ordered."""
    assert measure(LineModel(lora=1.0), 2, -1, 1).monotonicity([2, -1, 1]) == pytest.approx(1)
    assert measure(LineModel(lora=-1.0), 2, 1).monotonicity([1, 2]) == pytest.approx(-1)
    assert measure(LineModel(lora=0.0), 2, 1).monotonicity([1, 2]) is None


def test_pairs_are_judged_in_proportion_to_their_multipliers():
    """With multipliers 2 and 1, strength 2 is where both have their own; contrast and both sides add up."""
    pairs = [pair(2, 5, 1, 2, action="enhance", multiplier=2), pair(2, 5, 3, 2, action="enhance", multiplier=1)]
    measured = measure(LineModel(lora=2.0), 2, pairs=pairs)
    first, second = measured.pairs
    assert (first.left[2], second.left[2]) == pytest.approx((0, 0), abs=1e-9)
    assert measured.at_own_side(2).along == pytest.approx(1)
    assert first.contrast == pytest.approx(4**2 / 2**2)


def test_only_its_own_side_of_a_pair_is_asked_where_that_is_enough():
    """Half of the strengths, and the same figures."""
    both, own = (measure(LineModel(lora=1.0), 1, -1, own_side=side) for side in (False, True))
    assert set(own.pairs[0].left) == {1}
    assert own.at_own_side(1) == both.at_own_side(1)
    assert own.effect(-1) == both.effect(-1)


def test_a_pull_is_what_a_neutral_adds_besides_the_concept():
    """On a line every direction is the concept's; without a concept, all of the neutral's distance is pull."""
    along, only = measure(LineModel(), pairs=[pair(2, 5, 1, 4), pair(2, 5, 5, 4)]).pairs
    assert along.pull == pytest.approx(0, abs=1e-9)
    assert only.pull / only.edit == pytest.approx(1)


def test_pairs_that_keep_their_target_ask_for_nothing():
    """They are not measured, so that a goal of size 0 does not count."""
    kept = pair(3, 3, 0, 3, guidance_scale=0)
    assert [one.pair for one in measure(LineModel(), pairs=[kept, SLIDER[0]]).pairs] == [SLIDER[0]]


def test_walks_have_the_lora_on_and_untouched_prompts_are_walked_without_it():
    """A pair's walk has its multiplier, or the strength that is asked for; the base model walks what shall stay."""
    for how, expected in ({}, {1.0, -1.0}), ({"walk_strength": 3.0}, {3.0, -3.0}):
        model = LineModel(lora=1.0)
        measure(model, untouched=("7",), **how)
        walked = {(call.values[0], call.multipliers[0]) for call in model.calls if len(call.values) == 2}
        assert {strength for value, strength in walked if value == 2} >= expected
        assert {strength for value, strength in walked if value == 7} == {0.0}


def test_every_stop_of_a_walk_is_measured_equally_often():
    """Two walks of six states each cover the positions 1 to 12 of 13 steps, once."""
    course = Course(steps=13, most_states=6)
    assert sorted(_stops(course, 0, 2) + _stops(course, 1, 2)) == list(range(1, 13))
    assert _stops(Course(steps=3), 0, 1) == [1, 2]


def test_the_noise_is_one_that_no_training_has():
    """A training_seed is smaller than the seed of the held-out noise; the figures are the same every time."""
    limits = [item.lt for item in JobConfig.model_fields["training_seed"].metadata if hasattr(item, "lt")]
    assert limits
    assert all(limit <= HELD_OUT for limit in limits)
    assert measure(LineModel(lora=1.0), 1) == measure(LineModel(lora=1.0), 1)


def test_without_a_network_the_base_model_is_measured():
    """Nothing is reached, and what is asked is known."""
    figures = Bench(LineModel(), NoNetwork(), SLIDER, (), COURSE).measure(()).pairs[0]
    assert math.isclose(figures.edit, 2 * 4**2)
    assert not figures.left
