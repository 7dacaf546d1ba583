"""One LECO step: who is asked what, at which strength and timestep, how often, and what is learnt from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from models import (
    CPU,
    Call,
    LineModel,
    LineSampler,
    SmallDenoiser,
    line_step,
    pair,
    randn,
    randomize,
    seeded,
    small_unet,
    step_of,
)
from torch import Tensor

from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.core.walk import FreshWalks, PoolWalks, Walk
from leco_plugin.engine.assemble import assemble
from leco_plugin.engine.step import LecoStep, Measured, StepResult, StepSettings
from leco_plugin.engine.walks import make_walks
from leco_plugin.families.load import load_model
from leco_plugin.network.peft_lora import PeftLora

SAMPLERS = ["ddim", "ddpm", "euler", "euler_a", "dpmsolver++"]


class GivenWalks:
    """Walks that are already where the step shall train, and that stay there."""

    moves_on = False

    def __init__(self, *walks: Walk) -> None:
        self.walks = walks

    def draw(self) -> Sequence[Walk]:
        return self.walks

    def behind(self) -> Sequence[Walk]:
        return ()

    def moved(self, walks: Sequence[Walk], predictions: Sequence[Tensor]) -> None:
        raise AssertionError("these walks stay")


class MovingWalks(GivenWalks):
    """Walks that keep what the step hands back for their next move."""

    moves_on = True

    def __init__(self, *walks: Walk) -> None:
        super().__init__(*walks)
        self.moves: list[Tensor] = []

    def moved(self, walks: Sequence[Walk], predictions: Sequence[Tensor]) -> None:
        assert tuple(walks) == self.walks
        self.moves = list(predictions)


def begin(step: LecoStep, pair: int = 0, position: int = 0) -> Walk:
    """A walk of this pair at this position, without asking the model; it is measured at 1, 9, 17, ..."""
    walk = turned(step.begin(pair, seeded(pair)), 7)
    for _ in range(position):
        walk.advance(torch.zeros_like(walk.latents))
    return walk


def turned(walk: Walk, turn: int) -> Walk:
    walk.turn = turn
    return walk


def train(model: LineModel, *pairs: PromptPair, **settings: Any) -> StepResult:
    """A step at one walk of every pair; its gradient is in the LoRA, its calls in the model."""
    step = line_step(model, *pairs, **settings)
    return step.run(GivenWalks(*(begin(step, number) for number in range(len(pairs)))), torch.autograd.backward)


def gradient(model: LineModel) -> float:
    assert model.network.weight.grad is not None
    return model.network.weight.grad.item()


def test_the_loss_is_worked_out_by_hand():
    """Student 2 + 10, goal 4 - (5 - 2) = 1: the loss is 11 squared, and falls by 2 * 11 per unit of LoRA."""
    model = LineModel(lora=10.0)
    result = train(model, pair(target=2, positive=5, unconditional=2, neutral=4))
    assert result.loss.item() == 121.0
    assert gradient(model) == 22.0
    assert result.samples == 1


def test_enhancing_goes_the_other_way():
    """Goal 4 + 2 * (5 - 2) = 10."""
    asked = pair(target=2, positive=5, unconditional=2, neutral=4, action="enhance", guidance_scale=2.0)
    assert train(LineModel(lora=10.0), asked).loss.item() == (2 + 10 - 10) ** 2


def test_the_teacher_never_sees_the_lora():
    """Everything is asked without it, but for the student, which is the only one with a gradient."""
    model = LineModel(lora=10.0)
    train(model, pair(target=2, positive=5, unconditional=3, neutral=4, multiplier=-2.0))
    assert [(call.values, call.multipliers, call.gradient) for call in model.calls] == [
        ([4, 5, 3], [0, 0, 0], False),
        ([2], [-2], True),
    ]


def test_the_student_has_the_multiplier_of_its_pair():
    """At -2 it predicts 2 - 20, and the gradient knows the sign: 2 * (-18 - 1) * -2."""
    model = LineModel(lora=10.0)
    result = train(model, pair(target=2, positive=5, unconditional=2, neutral=4, multiplier=-2.0))
    assert result.loss.item() == (2 - 20 - 1) ** 2
    assert gradient(model) == 76.0


def test_the_network_is_left_as_it_was():
    """After a step, and after one that went wrong, the strength is what it was before."""
    model = LineModel(lora=10.0)
    model.network.strength = 0.7
    train(model, pair(multiplier=-2.0))
    assert model.network.strength == 0.7
    step = line_step(model, pair())
    with pytest.raises(RuntimeError, match="no backward"):
        step.run(GivenWalks(begin(step)), lambda loss: (_ for _ in ()).throw(RuntimeError("no backward")))
    assert model.network.strength == 0.7


def test_the_multiplier_is_set_while_backward_runs():
    """Checkpointing recomputes the forward in backward, with whatever strength is set then."""
    model = LineModel(lora=10.0)
    step, seen = line_step(model, pair(multiplier=-2.0)), []
    step.run(GivenWalks(begin(step)), lambda loss: seen.append(model.network.strength))
    assert seen == [[-2.0]]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_everyone_is_asked_at_the_timestep_of_the_latents(position):
    """After k steps that is the schedule's entry k, for teacher and student alike, and they see the same latents."""
    model = LineModel(lora=10.0, steps=4)
    step = line_step(model, pair())
    walk = begin(step, position=position)
    step.run(GivenWalks(walk), torch.autograd.backward)
    assert {number for call in model.calls for number in call.timesteps} == {40 - 10 * position}
    assert all(torch.equal(row, walk.latents[0]) for call in model.calls for row in call.latents)


def test_everyone_sees_what_the_sampler_shows_and_the_sizes_of_the_walk():
    """Scaled latents, and the size conditioning once per row."""
    model = LineModel()
    model.line_sampler.scale = 0.5
    step = line_step(model, pair(resolution=(64, 128)))
    walk = begin(step)
    step.run(GivenWalks(walk), torch.autograd.backward)
    for call in model.calls:
        assert torch.equal(call.latents, (walk.latents * 0.5).expand_as(call.latents))
        assert call.sizes.tolist() == [[64, 128, 0, 0, 64, 128]] * len(call.latents)


def test_a_walk_goes_by_the_guided_prediction_with_the_lora_on():
    """Target 2 + 10, unconditional 1 + 10, guidance 3: 11 + 3 * (12 - 11), in one call of two rows."""
    model = LineModel(lora=5.0)
    step = line_step(model, pair(target=2, unconditional=1, multiplier=2.0), denoise_guidance_scale=3.0)
    (prediction,) = step.guide([begin(step)])
    assert prediction.unique().tolist() == [14.0]
    assert not prediction.requires_grad
    assert [(call.values, call.multipliers) for call in model.calls] == [([2, 1], [2, 2])]


def test_a_walk_at_guidance_one_asks_for_no_unconditional():
    """Its half would be computed and not used: one row, also where a pool moves on."""
    model = LineModel(lora=5.0)
    step = line_step(model, pair(target=2, unconditional=1), denoise_guidance_scale=1.0)
    assert step.guide([begin(step)])[0].unique().tolist() == [7.0]
    walks = MovingWalks(begin(step))
    step.run(walks, torch.autograd.backward)
    assert [call.values for call in model.calls] == [[2], [0, 5, 1], [2]]
    assert walks.moves[0].unique().tolist() == [7.0]


def rows(calls: Sequence[Call], *, gradient: bool) -> int:
    return sum(len(call.values) for call in calls if call.gradient == gradient)


def test_a_plain_erase_takes_two_teacher_rows():
    """Neutral and unconditional are the empty prompt, positive is the target: two distinct prompts, and the student."""
    model = LineModel(lora=5.0)
    train(model, pair(target=5, positive=5))
    assert (rows(model.calls, gradient=False), rows(model.calls, gradient=True)) == (2, 1)


def test_a_slider_pair_takes_three_teacher_rows():
    """Positive, negative and neutral differ."""
    model = LineModel(lora=5.0)
    train(model, pair(target=2, positive=5, unconditional=3, neutral=2))
    assert (rows(model.calls, gradient=False), rows(model.calls, gradient=True)) == (3, 1)


def test_a_pool_step_is_one_call_without_and_one_with_gradient():
    """The teacher's rows and the walk's unconditional, each at its own strength; then the student's."""
    model = LineModel(lora=5.0)
    step = line_step(model, pair(target=2, positive=5, unconditional=3, neutral=4, multiplier=-1.0))
    walks = MovingWalks(begin(step))
    step.run(walks, torch.autograd.backward)
    assert [(call.values, call.multipliers, call.gradient) for call in model.calls] == [
        ([4, 5, 3, 3], [0, 0, 0, -1], False),
        ([2], [-1], True),
    ]
    assert walks.moves[0].unique().tolist() == [-2 + 3 * (-3 - -2)]
    assert not walks.moves[0].requires_grad


def test_a_pool_step_over_several_walks_is_still_two_calls():
    """Every walk brings its rows; its samples stand together."""
    model = LineModel(lora=5.0)
    step = line_step(model, pair(5, 5, batch_size=2), pair(2, 5, 3, 4, multiplier=-1.0))
    walks = MovingWalks(begin(step, 0), begin(step, 1, position=2))
    step.run(walks, torch.autograd.backward)
    assert [(call.values, call.multipliers, call.timesteps) for call in model.calls] == [
        (
            [0, 0, 5, 5, 4, 5, 3, 0, 0, 3],
            [0, 0, 0, 0, 0, 0, 0, 1, 1, -1],
            [40, 40, 40, 40, 20, 20, 20, 40, 40, 20],
        ),
        ([5, 5, 2], [1, 1, -1], [40, 40, 20]),
    ]


def test_walks_of_other_sizes_take_calls_of_their_own():
    """Latents of two shapes do not fit in one batch; loss and gradient are the means all the same."""
    sizes = [(64, 64), (64, 128)]
    alone = [LineModel(lora=5.0), LineModel(lora=5.0)]
    asked = [
        pair(2, 5, resolution=size, multiplier=multiplier) for size, multiplier in zip(sizes, (1.0, -1.0), strict=True)
    ]
    losses = [train(model, one).loss.item() for model, one in zip(alone, asked, strict=True)]
    both = LineModel(lora=5.0)
    assert train(both, *asked).loss.item() == sum(losses) / 2
    assert gradient(both) == sum(map(gradient, alone)) / 2
    assert [tuple(call.latents.shape) for call in both.calls] == [
        (2, 4, 8, 8),
        (2, 4, 8, 16),
        (1, 4, 8, 8),
        (1, 4, 8, 16),
    ]


def test_a_network_without_rows_learns_the_same_in_separate_calls():
    """One call for each strength, with equal loss, gradient and moves."""
    results = []
    for takes_rows in (True, False):
        model = LineModel(lora=5.0, takes_rows=takes_rows)
        step = line_step(model, pair(2, 5, 3, 4, multiplier=-1.0), pair(5, 5), pair(1, 4, weight=2.0, multiplier=-1.0))
        walks = MovingWalks(*(begin(step, number) for number in range(3)))
        result = step.run(walks, torch.autograd.backward)
        moves = [move.unique().tolist() for move in walks.moves]
        results.append((result.loss.item(), gradient(model), moves, len(model.calls)))
    assert results[0][:3] == results[1][:3]
    assert (results[0][3], results[1][3]) == (2, 5)


def test_a_weight_multiplies_loss_and_gradient():
    """Weight 3 is three times as much."""
    plain, heavy = LineModel(lora=10.0), LineModel(lora=10.0)
    assert 3 * train(plain, pair()).loss.item() == train(heavy, pair(weight=3.0)).loss.item()
    assert 3 * gradient(plain) == gradient(heavy)


def test_several_walks_count_as_their_mean():
    """Losses 1 and 9 make 5; samples add up."""
    model = LineModel(lora=0.0)
    result = train(model, pair(target=1, positive=0, batch_size=3), pair(target=3, positive=0))
    assert result.loss.item() == 5.0
    assert result.samples == 4
    assert gradient(model) == (2 * 1 + 2 * 3) / 2


def test_a_batch_is_as_many_samples_of_noise_as_it_says():
    """Three samples of one walk: other noise, one timestep, one loss that is their mean."""
    model = LineModel(lora=1.0)
    step = line_step(model, pair(batch_size=3))
    walk = begin(step)
    assert walk.latents.shape == (3, 4, 8, 8)
    assert not torch.equal(walk.latents[0], walk.latents[1])
    result = step.run(GivenWalks(walk), torch.autograd.backward)
    assert result.loss.item() == train(LineModel(lora=1.0), pair()).loss.item()


def test_min_snr_goes_by_the_timestep_of_the_latents():
    """At timesteps 40, 30, 20, 10 the snr is 1, 4, 20, 100; gamma 5 leaves 1, 1, 1/4, 1/20 of the loss."""
    losses = []
    for position in range(4):
        model = LineModel(lora=1.0)
        model.snr_by_timestep = {40: 1.0, 30: 4.0, 20: 20.0, 10: 100.0}
        step = line_step(model, pair(target=1, positive=0), min_snr_gamma=5.0)
        losses.append(step.run(GivenWalks(begin(step, position=position)), torch.autograd.backward).loss.item())
    assert losses == pytest.approx([4.0, 4.0, 1.0, 0.2])


def test_min_snr_of_a_velocity_model_divides_by_one_more():
    """Snr 20 and gamma 5: 5/21."""
    model = LineModel(lora=1.0, prediction_type="v_prediction")
    model.snr_by_timestep = {40: 20.0}
    assert train(model, pair(target=1, positive=0), min_snr_gamma=5.0).loss.item() == pytest.approx(4 * 5 / 21)


def test_the_effect_is_measured_where_the_rows_tell():
    """Erasing 5 towards -5 takes -5 away; with the LoRA at -4, 5 has become 1. A slider's rows tell nothing of it.

    At a signal-to-noise ratio of 4 an epsilon counts a quarter in the picture.
    """
    model = LineModel(lora=-4.0)
    model.snr_by_timestep = {40: 4.0}
    (measured,) = train(model, pair(target=5, positive=5)).measured
    assert measured == Measured(
        0, now=36.0, before=100.0, size=25 / 4, concept=25 / 4, along=20 / 4, change=16 / 4, moved=None
    )
    step = line_step(LineModel(lora=-4.0), pair(target=2, positive=5, unconditional=3, neutral=4))
    assert step.run(GivenWalks(turned(begin(step), 1)), torch.autograd.backward).measured == ()


def test_effect_and_drift_are_measured_at_every_eighth_position():
    """A slider's walk there also asks the frozen model for the target, and for an untouched prompt with the LoRA."""
    for position, turn, expected in ((1, 7, True), (2, 7, False), (8, 7, False), (9, 7, True), (3, 5, True)):
        model = LineModel(lora=10.0, steps=12)
        step = line_step(model, pair(target=2, positive=5, unconditional=3, neutral=6, multiplier=-1.0))
        result = step.run(GivenWalks(turned(begin(step, position=position), turn)), torch.autograd.backward)
        # the goal is 6 - (5 - 3), the student says 2 - 10; around the pair stand 3, 6 and "", each moved by 10
        measured = Measured(0, now=144.0, before=4.0, size=4.0, concept=4.0, along=20.0, change=100.0, moved=100.0)
        assert result.measured == ((measured,) if expected else ())
        assert rows(model.calls, gradient=False) in ({5, 6} if expected else {3})


def test_walks_are_measured_at_positions_that_they_draw():
    """Together every position equally often, and every untouched prompt at each of them."""
    step = line_step(LineModel(), pair(), preserve=["7", "8"])
    generator = seeded(0)
    turns = {step.begin(0, generator).turn for _ in range(500)}
    assert turns == set(range(8 * 4))


def test_a_pair_that_keeps_its_target_tells_of_drift():
    """Its goal is what the model says anyway, so a distance from it is no missing effect."""
    (measured,) = train(LineModel(lora=3.0), pair(target=5, positive=5, neutral=5, guidance_scale=0.0)).measured
    assert measured == Measured(0, moved=9.0)


def test_what_is_only_replaced_is_a_concept_of_its_own():
    """Without an edit strength, 2 shall say what 6 says: the effect is measured on the way there."""
    kept = pair(target=2, positive=2, neutral=6, guidance_scale=0.0)
    (measured,) = train(LineModel(lora=1.0), kept).measured
    assert (measured.concept, measured.along) == (16.0, 4.0)


def test_preserved_prompts_are_held_at_both_signs():
    """One teacher and one student row more; over four positions two prompts come at +2 and -2 each."""
    model = LineModel(lora=10.0, steps=8)
    step = line_step(model, pair(target=2, positive=2, multiplier=2.0), preserve=["7", "8"], preserve_weight=0.5)
    seen = []
    for position in range(4):
        walk = begin(step, position=position)
        loss = step.run(GivenWalks(walk), torch.autograd.backward).loss.item()
        teacher, student = model.calls[-2:]
        assert (teacher.values, teacher.multipliers) == ([0, 2, student.values[1]], [0, 0, 0])
        # 2 + 20 towards -2; a preserved prompt is 20 away from itself, on either side
        assert loss == 24.0**2 + 0.5 * 20.0**2
        seen.append((student.values[1], student.multipliers[1]))
    assert sorted(seen) == [(7, -2), (7, 2), (8, -2), (8, 2)]


def test_the_drift_of_preserved_prompts_is_what_their_rows_tell():
    """At every step, without a row of its own."""
    (measured,) = train(LineModel(lora=3.0), pair(target=5, positive=5, multiplier=2.0), preserve=["7"]).measured
    assert measured.moved == 36.0


def test_preserved_prompts_are_measured_before_a_walk_moves_on():
    """In a pool a walk has another preserved row after every step; the drift is of the one that was trained."""
    step = line_step(LineModel(lora=3.0, steps=8), pair(target=5, positive=5), preserve=["7", "8"])
    pool = make_walks(LecoConfig(walk="pool", pool_size=2, max_denoising_steps=8), step, [pair()], seeded(0))
    for _ in range(8):
        (measured,) = step.run(pool, torch.autograd.backward).measured
        assert measured.moved == 9.0


def test_the_same_seed_begins_the_same_walk():
    """Noise, resolution and crops come from the generator; dynamic sizes stay within their pair's."""
    step = line_step(LineModel(), pair(resolution=(128, 128), dynamic_resolution=True, dynamic_crops=True))

    def walks(seed: int) -> list[Walk]:
        generator = seeded(seed)
        return [step.begin(0, generator) for _ in range(20)]

    first, again, other = walks(0), walks(0), walks(1)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.latents, two.latents)
        assert torch.equal(one.sizes, two.sizes)
    assert any(not torch.equal(one.sizes, two.sizes) for one, two in zip(first, other, strict=True))
    assert {tuple(walk.latents.shape[2:]) for walk in first} == {(8, 8), (8, 16), (16, 8), (16, 16)}
    assert all(walk.sizes.tolist()[4:] == [8 * side for side in walk.latents.shape[2:]] for walk in first)


def test_every_size_has_a_schedule_of_its_own():
    """Flow models shift it with the size; the model is asked once for each."""
    model, asked = LineModel(), []
    model.sampler = lambda name, steps, shape: asked.append(shape) or LineSampler(steps)
    step = line_step(model, pair(resolution=(64, 64)), pair(resolution=(64, 128)))
    walks = [step.begin(number, seeded(number)) for number in (0, 1, 0)]
    assert asked == [(4, 8, 8), (4, 8, 16)]
    assert walks[0].sampler is not walks[2].sampler, "each has a history of its own"


def test_the_noise_has_the_samplers_sigma_and_the_offset():
    """A sampler that starts at 3 gets noise of that size; an offset moves whole channels."""
    model = LineModel()
    model.line_sampler.init_noise_sigma = 3.0
    asked = pair(resolution=(512, 512))
    latents = line_step(model, asked).begin(0, seeded(0)).latents
    moved = line_step(model, asked, noise_offset=0.5).begin(0, seeded(0)).latents - latents
    assert latents.std().item() == pytest.approx(3.0, abs=0.1)
    assert moved.flatten(2).std(2).max().item() < 1e-5
    assert moved.abs().max().item() > 0.01


def test_the_job_says_which_walks_there_are():
    """Fresh ones, or a pool that is at least as large as what one step takes."""
    step = line_step(LineModel(), pair())
    fresh = make_walks(LecoConfig(max_denoising_steps=4, walk="fresh", pairs_per_step=3), step, [pair()], seeded(0))
    assert isinstance(fresh, FreshWalks)
    assert len(fresh.draw()) == 3
    pool = make_walks(
        LecoConfig(max_denoising_steps=4, walk="pool", pool_size=2, pairs_per_step=5), step, [pair()], seeded(0)
    )
    assert isinstance(pool, PoolWalks)
    assert len(pool.draw()) == 5


def test_a_pool_walks_one_sample_at_a_time():
    """Pairs of 3 samples and of 1: three walks for one, each of a third of the weight, and so many in a step."""
    pairs = [pair(5, 5, batch_size=3), pair(7, 7)]
    step = line_step(LineModel(steps=6), *pairs)
    walks = make_walks(
        LecoConfig(max_denoising_steps=6, walk="pool", pool_size=8, pairs_per_step=2), step, pairs, seeded(0)
    )
    counts, weights = [0, 0], [0.0, 0.0]
    for _ in range(400):
        drawn = walks.draw()
        assert [walk.samples for walk in drawn] == [1] * 4
        for walk in drawn:
            counts[walk.pair] += 1
            weights[walk.pair] += walk.share
        walks.moved(drawn, [torch.zeros(1, 4, 8, 8)] * 4)
    assert counts[0] / counts[1] == pytest.approx(3.0, rel=0.1)
    assert weights[0] / weights[1] == pytest.approx(1.0, rel=0.1)
    assert sum(weights) / 1600 == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("stride", [1, 3])
def test_the_walks_of_a_pool_move_on_as_the_job_says(stride):
    """By so many sampler steps at each visit, until they are replaced."""
    step = line_step(LineModel(steps=9), pair())
    leco = LecoConfig(max_denoising_steps=9, pool_size=1, pool_stride=stride)
    walks = make_walks(leco, step, [pair()], seeded(0))
    for _ in range(12):
        (walk,) = walks.draw()
        before = walk.position
        walks.moved([walk], [torch.zeros(1, 4, 8, 8)])
        (after,) = walks.draw()
        assert after.position == before + stride if after is walk else before + stride >= 9


def test_a_share_multiplies_loss_and_gradient():
    """A walk that counts for half."""
    model = LineModel(lora=10.0)
    step = line_step(model, pair(target=2, positive=5, unconditional=2, neutral=4))
    walk = begin(step)
    walk.share = 0.5
    assert step.run(GivenWalks(walk), torch.autograd.backward).loss.item() == 60.5
    assert gradient(model) == 11.0


def small_gradients(*, checkpointing: bool) -> list[Tensor]:
    """Gradients of one step over a real UNet, with walks of three strengths in one call."""
    unet = small_unet()
    if checkpointing:
        unet.train()
        unet.enable_gradient_checkpointing()
    denoiser = SmallDenoiser(unet)
    network = PeftLora(unet, rank=4, alpha=2.0, seed=0)
    randomize(network.parameters())
    pairs = [pair(multiplier=multiplier) for multiplier in (1.0, -1.5, 0.5)]
    step = step_of(denoiser, network, pairs, 4)
    walks = MovingWalks(*(step.begin(number, seeded(number)) for number in range(3)))
    step.run(walks, torch.autograd.backward)
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def test_gradient_checkpointing_gives_the_same_gradients():
    """Also with a strength for every row, which backward needs again."""
    plain, checkpointed = small_gradients(checkpointing=False), small_gradients(checkpointing=True)
    assert len(plain) == len(checkpointed) > 0
    for one, two in zip(plain, checkpointed, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_step_of_a_pool_asks_the_model_twice(stride):
    """Once without gradient, for the teacher and whoever has to move on, and once with it."""
    model = LineModel(steps=8)
    pairs = [pair(2, 5), pair(3, 7, multiplier=-1.0)]
    step = line_step(model, *pairs)
    leco = LecoConfig(max_denoising_steps=8, pairs_per_step=2, pool_stride=stride)
    walks = make_walks(leco, step, pairs, seeded(0))
    step.run(walks, torch.autograd.backward)
    for _ in range(40):
        model.calls.clear()
        step.run(walks, torch.autograd.backward)
        assert len(model.calls) == 2


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("steps", [8, 20, 28, 40, 50])
def test_filling_a_pool_costs_at_most_four_steps(steps, batch):
    """Of a plain erase; a row with gradient counts for three, for its backward pass."""
    model, pairs = LineModel(steps=steps), [pair(5, 5, batch_size=batch)]
    step = line_step(model, *pairs)
    walks = make_walks(LecoConfig(max_denoising_steps=steps), step, pairs, seeded(0))

    def cost() -> int:
        rows = sum(len(call.latents) * (3 if call.gradient else 1) for call in model.calls)
        model.calls.clear()
        return rows

    walks.draw()
    filling = cost()
    for _ in range(50):
        step.run(walks, torch.autograd.backward)
    assert filling <= 4 * cost() / 50


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_leap_keeps_the_scale_of_its_sampler(name):
    """A model that knows the noise, and so the picture, is led to the picture at any noise level."""
    denoiser = load_model("builtin:tiny", dtype="fp32", device=CPU)
    pairs = [PromptPair(target="red", positive="red", resolution=(64, 64))]
    network = PeftLora(denoiser.module, rank=2, alpha=2.0, seed=0)
    training = assemble(
        pairs,
        LecoConfig(max_denoising_steps=20),
        StepSettings(),
        denoiser=denoiser,
        network=network,
        sampler=name,
        generator=seeded(0),
    )
    walk = training.step.begin(0, seeded(1))
    picture = randn(*walk.latents.shape, seed=2)
    snr = denoiser.snr(walk.sampler.timesteps[[0, 12]])
    signal, share = (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
    noise = (walk.model_input - signal[0] * picture) / share[0]
    walk.leap(training.step.leap(walk, noise, 12), 12)
    # samplers that have timesteps between two of the training are that much off
    torch.testing.assert_close(walk.model_input, signal[1] * picture + share[1] * noise, rtol=1e-2, atol=1e-2)
