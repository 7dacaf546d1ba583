"""Walks: how far they go, whose turn it is, and that a pool changes nothing but the cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from models import CPU, SD_SCHEDULE, LineSampler, randn, seeded
from torch import Tensor

from leco_plugin.core.walk import Deck, FreshWalks, PoolWalks, Walk, draw_stop, guided
from leco_plugin.families.samplers import make_sampler

SAMPLERS = ["ddim", "ddpm", "euler", "euler_a", "dpmsolver++"]


def line_walk(pair: int, steps: int) -> Walk:
    """A walk over LineSampler: its latents are the sum of the predictions so far."""
    return Walk(pair, torch.zeros(1, 1, 1, 1), torch.zeros(6), LineSampler(steps), seeded(pair))


class Walker:
    """Begins line walks and guides them; counts both."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.begun: list[Walk] = []
        self.guided: list[Walk] = []

    def begin(self, pair: int) -> Walk:
        self.begun.append(line_walk(pair, self.steps))
        return self.begun[-1]

    def guide(self, walks: Sequence[Walk]) -> list[Tensor]:
        self.guided += walks
        return [torch.ones(1, 1, 1, 1)] * len(walks)

    def leap(self, walk: Walk, prediction: Tensor, position: int) -> Tensor:
        return walk.latents + (position - walk.position) * prediction

    def fresh(self, *, pairs: int = 1, per_step: int = 1, seed: int = 0) -> FreshWalks:
        return FreshWalks(
            self.begin, self.guide, pairs=pairs, steps=self.steps, per_step=per_step, generator=seeded(seed)
        )

    def pool(self, size: int, *, pairs: int = 1, per_step: int = 1, seed: int = 0, stride: int = 1) -> PoolWalks:
        generator = seeded(seed)
        return PoolWalks(
            self.begin,
            self.guide,
            self.leap,
            pairs=range(pairs),
            steps=self.steps,
            size=size,
            per_step=per_step,
            generator=generator,
            stride=stride,
        )


def train(walks: PoolWalks, draws: int) -> list[tuple[int, int]]:
    """(pair, position) of everything that so many steps train at."""
    seen = []
    for _ in range(draws):
        drawn = walks.draw()
        seen += [(walk.pair, walk.position) for walk in drawn]
        walks.moved(drawn, [torch.ones(1, 1, 1, 1)] * len(drawn))
    return seen


def uniform(counts: Counter[int], values: range) -> bool:
    """Chi-square test: exactly ``values`` occur, and no less evenly than with about one seed in ten thousand."""
    assert sorted(counts) == list(values)
    expected, freedom = counts.total() / len(values), len(values) - 1
    statistic = sum((counts[value] - expected) ** 2 / expected for value in values)
    return statistic < freedom + 4 * (2 * freedom) ** 0.5 + 10


def test_guidance_goes_on_from_the_unconditional():
    """Unconditional 2, conditional 5: at scale 3 that is 2 + 3 * 3; at 0 unconditional, at 1 conditional."""
    two, five = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 5.0)
    assert [guided(five, two, scale).item() for scale in (0.0, 1.0, 3.0)] == [2.0, 5.0, 11.0]


def test_guidance_is_float32():
    """Neither 1/1024 + 3 * (1 - 1/1024) nor the difference in it is a bf16 number."""
    one, little = torch.ones(1, 1, 1, 1).bfloat16(), torch.full((1, 1, 1, 1), 1 / 1024).bfloat16()
    assert guided(one, little, 3.0).item() == 3 - 2 / 1024


def test_a_walk_tells_where_its_latents_really_are():
    """After two steps of four it is at the third timestep, with two predictions in it."""
    walk = line_walk(0, 4)
    assert (walk.position, walk.timestep.item()) == (0, 40)
    walk.advance(torch.full((1, 1, 1, 1), 3.0))
    walk.advance(torch.full((1, 1, 1, 1), 4.0))
    assert (walk.position, walk.timestep.item(), walk.latents.item(), walk.samples) == (2, 20, 7.0, 1)


def test_a_walk_shows_the_model_what_the_sampler_says():
    """Samplers such as Euler scale their latents for the model."""
    walk = Walk(0, torch.full((2, 1, 1, 1), 3.0), torch.zeros(6), LineSampler(4, scale=0.5), seeded(0))
    assert walk.model_input.flatten().tolist() == [1.5, 1.5]
    assert walk.latents.flatten().tolist() == [3.0, 3.0]


@pytest.mark.parametrize("steps", [2, 5, 40])
def test_the_stop_is_uniform_over_one_to_n_minus_one(steps):
    """Every stop comes, 0 and N never, and all equally often."""
    generator = seeded(0)
    assert uniform(Counter(draw_stop(steps, generator) for _ in range(4000)), range(1, steps))


def test_a_deck_deals_every_number_once_a_round():
    """In 300 rounds of 4 each number comes 300 times, in different orders."""
    deck = Deck(4, seeded(0))
    rounds = [tuple(deck.draw() for _ in range(4)) for _ in range(300)]
    assert {tuple(sorted(one)) for one in rounds} == {(0, 1, 2, 3)}
    assert len(set(rounds)) == 24


def test_a_deck_deals_every_number_equally_likely_at_every_draw():
    """The first card, over many decks, and the second."""
    for place in range(2):
        generator = seeded(place)
        drawn: Counter[int] = Counter()
        for _ in range(3000):
            deck = Deck(3, generator)
            drawn[[deck.draw() for _ in range(place + 1)][-1]] += 1
        assert uniform(drawn, range(3))


def test_a_fresh_walk_takes_exactly_its_steps():
    """Stop k means k guided steps from noise, and the walk stands at position k."""
    walker = Walker(6)
    walks = walker.fresh()
    for _ in range(50):
        walker.guided.clear()
        (walk,) = walks.draw()
        assert walk.position == len(walker.guided) == walk.latents.item()
        assert set(map(id, walker.guided)) == {id(walk)}


def test_fresh_walks_draw_stop_and_pair_uniformly():
    """Each of 3 pairs and each of 5 stops, independent of each other."""
    walks = Walker(6).fresh(pairs=3, per_step=2)
    drawn = [walk for _ in range(1500) for walk in walks.draw()]
    assert uniform(Counter(walk.position for walk in drawn), range(1, 6))
    assert uniform(Counter(walk.pair for walk in drawn), range(3))
    assert uniform(Counter(walk.pair * 5 + walk.position - 1 for walk in drawn), range(15))


def test_fresh_walks_start_anew_every_time():
    """Two in a step, none of them seen before, and they do not go on."""
    walker = Walker(4)
    walks = walker.fresh(per_step=2)
    drawn = [walk for _ in range(5) for walk in walks.draw()]
    assert len({id(walk) for walk in drawn}) == 10
    assert not walks.moves_on


@pytest.mark.parametrize("stride", [1, 2, 3, 9])
@pytest.mark.parametrize(("size", "per_step"), [(1, 1), (8, 1), (8, 3), (5, 5), (32, 4)])
def test_the_stops_of_a_pool_are_uniform(size, per_step, stride):
    """Over many draws every stop from 1 to N-1 is trained at equally often."""
    seen = train(Walker(6).pool(size, per_step=per_step, stride=stride), 3000 // per_step)
    assert uniform(Counter(position for _, position in seen), range(1, 6))


def test_the_stops_of_a_pool_are_uniform_from_the_first_draw():
    """Over many pools, what the first step trains at."""
    first: Counter[int] = Counter()
    for seed in range(1000):
        first[Walker(6).pool(4, seed=seed).draw()[0].position] += 1
    assert uniform(first, range(1, 6))


def test_a_new_pool_is_spread_evenly():
    """As many walks as stops stand at one stop each; in strides of 2 steps that takes 1 + 1 + 2 + 2 + ... + 4 calls."""
    walker = Walker(9)
    walker.pool(8).draw()
    assert sorted(walk.position for walk in walker.begun) == list(range(1, 9))
    assert len(walker.guided) == 20


def test_the_pairs_of_a_pool_come_equally_often():
    """Walks are begun for one pair as often as for the other, give or take the round under way."""
    walker = Walker(4)
    seen = train(walker.pool(8, pairs=3), 3000)
    begun = Counter(walk.pair for walk in walker.begun)
    assert max(begun.values()) - min(begun.values()) <= 1
    assert uniform(Counter(number for number, _ in seen), range(3))


def test_a_step_trains_at_different_walks():
    """Five of eight, no walk twice; a pool of three gives three, even if five are asked for."""
    for size, expected in ((8, 5), (3, 3)):
        walks = Walker(4).pool(size, per_step=5)
        for _ in range(100):
            drawn = walks.draw()
            assert len({id(walk) for walk in drawn}) == len(drawn) == expected
            walks.moved(drawn, [torch.ones(1, 1, 1, 1)] * expected)


def test_a_walk_moves_on_by_one_step_and_is_replaced_at_the_end():
    """Positions 1, 2, 3, then a new walk at 1; each move costs no guided step, only a new walk does."""
    walker = Walker(4)
    walks = walker.pool(1)
    (walk,) = walks.draw()
    while walk.position < 3:
        before = walk.position
        walks.moved([walk], [torch.ones(1, 1, 1, 1)])
        (again,) = walks.draw()
        assert again is walk
        assert walk.position == before + 1
    walker.guided.clear()
    walks.moved([walk], [torch.ones(1, 1, 1, 1)])
    (new,) = walks.draw()
    assert new is not walk
    assert (new.position, len(walker.guided)) == (1, 1)


def test_a_walk_may_move_on_by_more_than_one_step():
    """By 2: the first one along what the student said, the second one guided; then a new walk at 1 or at 2."""
    walker = Walker(8)
    walks = walker.pool(1, stride=2)
    starts = set()
    for _ in range(60):
        (walk,) = walks.draw()
        before, latents = walk.position, walk.latents.item()
        walker.guided.clear()
        walks.moved([walk], [torch.full((1, 1, 1, 1), 5.0)])
        (after,) = walks.draw()
        if before + 2 < 8:
            assert after is walk
            assert (after.position, after.latents.item(), len(walker.guided)) == (before + 2, latents + 5 + 1, 1)
        else:
            starts.add(after.position)
            assert after.position == len(walker.guided)
    assert starts == {1, 2}


def guide(walk: Walk) -> Tensor:
    """A prediction that depends on the latents and the timestep, as a model's does."""
    return 0.3 * walk.model_input + torch.sin(walk.timestep)


def guide_all(walks: Sequence[Walk]) -> list[Tensor]:
    return [guide(walk) for walk in walks]


def no_leap(walk: Walk, prediction: Tensor, position: int) -> Tensor:
    raise AssertionError("a walk of six steps takes them one by one")


def sampler_walk(name: str, seed: int) -> Walk:
    sampler = make_sampler(name, SD_SCHEDULE, 6, CPU)
    return Walk(0, randn(1, 4, 4, 4, seed=seed) * sampler.init_noise_sigma, torch.zeros(6), sampler, seeded(seed))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_walk_gives_the_same_latents_alone_and_in_a_pool(name):
    """Histories and noise belong to a walk: whose turn it is in between changes nothing."""
    prototype = make_sampler(name, SD_SCHEDULE, 6, CPU)
    begun: list[Walk] = []

    def begin(pair: int) -> Walk:
        seed = len(begun)
        noise = randn(1, 4, 4, 4, seed=seed) * prototype.init_noise_sigma
        begun.append(Walk(0, noise, torch.zeros(6), prototype.fresh(), seeded(seed)))
        return begun[-1]

    walks = PoolWalks(begin, guide_all, no_leap, pairs=[0], steps=6, size=3, per_step=2, generator=seeded(9))
    for _ in range(25):
        drawn = walks.draw()
        walks.moved(drawn, [guide(walk) for walk in drawn])
    assert len(begun) > 6
    for seed, walk in enumerate(begun):
        alone = sampler_walk(name, seed)
        while alone.position < walk.position:
            alone.advance(guide(alone))
        assert torch.equal(alone.latents, walk.latents)
        assert torch.equal(alone.model_input, walk.model_input)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_fresh_sampler_has_no_history(name):
    """Also that of a walk under way: steps taken with one leave no trace in the other."""
    used = sampler_walk(name, 0)
    for _ in range(4):
        used.advance(guide(used))
    new, expected = sampler_walk(name, 1), sampler_walk(name, 1)
    new.sampler = used.sampler.fresh()
    for _ in range(5):
        new.advance(guide(new))
        expected.advance(guide(expected))
    assert torch.equal(new.latents, expected.latents)


def test_walks_between_two_stops_are_behind_until_they_are_moved():
    """A walk that moves on by two steps needs one guided prediction more, and none before it is drawn again."""
    walker = Walker(8)
    walks = walker.pool(4, stride=2)
    for _ in range(30):
        drawn = walks.draw()
        assert all(walk.position == walk.stop for walk in drawn)
        behind = walks.behind()
        assert not set(map(id, behind)) & set(map(id, drawn))
        for walk in behind:
            walk.advance(torch.ones(1, 1, 1, 1))
        walks.moved(drawn, [torch.ones(1, 1, 1, 1)] * len(drawn))


def test_a_walk_that_is_on_its_way_is_not_drawn_next():
    """In a pool that is twice as large as a step, nobody waits for a walk: no guided call is made for a draw."""
    walker = Walker(8)
    walks = walker.pool(8, per_step=2, stride=2)
    walks.draw()
    walker.guided.clear()
    for _ in range(200):
        for walk in walks.behind():
            while walk.position < walk.stop:
                walk.advance(torch.ones(1, 1, 1, 1))
        drawn = walks.draw()
        walks.moved(drawn, [torch.ones(1, 1, 1, 1)] * 2)
    assert walker.guided == []


def test_the_first_walks_come_to_their_stops_in_long_strides():
    """Of 6 steps where a walk has 40: at most 7 guided predictions each, at the same stops."""
    walker = Walker(40)
    walks = walker.pool(8)
    walks.draw()
    asked = Counter(id(walk) for walk in walker.guided)
    assert [asked[id(walk)] for walk in walker.begun] == [-(-walk.stop // 6) for walk in walker.begun]
    assert [walk.latents.item() for walk in walker.begun] == [walk.position for walk in walker.begun]
