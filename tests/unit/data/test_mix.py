"""Which example comes next, and what an optimizer step learns from."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from fettle.data.mix import Draw, draws, steps_of


def first(count: int, lengths: list[list[int]], weights: list[float], seed: int = 0) -> list[Draw]:
    return list(islice(draws(lengths, weights, seed), count))


def steps(lengths: list[list[int]], weights: tuple[float, ...] = (1.0,), seed: int = 0, **how) -> list[list[Draw]]:
    given = {"tokens": None, "sequences": None, "epochs": None, "max_steps": None} | how
    return steps_of(lengths, weights, seed, **given)


def tokens_of(step: list[Draw], lengths: list[list[int]]) -> int:
    return sum(lengths[draw.source][draw.example] for draw in step)


def test_one_pass_holds_every_example_once_in_another_order():
    drawn = [draw.example for draw in first(20, [[1] * 20], [1.0])]
    assert sorted(drawn) == list(range(20)) != drawn


def test_every_pass_has_an_order_of_its_own():
    drawn = [draw.example for draw in first(40, [[1] * 20], [1.0])]
    assert sorted(drawn[:20]) == sorted(drawn[20:]) and drawn[:20] != drawn[20:]


def test_the_same_arguments_give_the_same_examples_and_another_seed_gives_others():
    lengths = [[3, 1, 4, 1, 5], [9, 2, 6]]
    assert first(50, lengths, [1, 2]) == first(50, lengths, [1, 2]) != first(50, lengths, [1, 2], seed=1)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.2), (3.0, 0.5), (0.001, 1.0)])
def test_after_every_draw_each_source_is_within_one_example_of_its_share_of_the_tokens(weights):
    lengths, longest = [[5, 17, 3, 80, 41], [7, 64, 12]], 80
    held = [0, 0]
    for draw in first(500, lengths, list(weights)):
        held[draw.source] += lengths[draw.source][draw.example]
        shares = [sum(held) * weight / sum(weights) for weight in weights]
        assert all(abs(got - share) <= longest for got, share in zip(held, shares, strict=True))


def test_weights_are_shares_of_tokens_not_of_examples():
    # Source 0 has examples of 10 tokens, source 1 of 1: equal shares are ten times as many of the short ones.
    count = Counter(draw.source for draw in first(1100, [[10] * 7, [1] * 7], [1.0, 1.0]))
    assert count == {0: 100, 1: 1000}


def test_a_weight_is_relative_to_the_other_ones():
    assert first(60, [[2, 3], [4]], [1.0, 3.0]) == first(60, [[2, 3], [4]], [0.25, 0.75])


def test_a_small_source_is_passed_over_again_beside_a_large_one():
    examples = Counter(draw.example for draw in first(200, [[1] * 100, [1] * 2], [1.0, 1.0]) if draw.source == 1)
    assert examples == {0: 50, 1: 50}


def test_adding_a_source_leaves_the_order_of_the_first_alone():
    alone = [draw.example for draw in first(30, [[1] * 10], [1.0])]
    beside = [draw.example for draw in first(60, [[1] * 10, [1] * 5], [1.0, 1.0]) if draw.source == 0]
    assert alone == beside


def test_a_step_holds_so_many_examples():
    assert [len(step) for step in steps([[1] * 10], sequences=4)] == [4, 4, 2]


def test_a_step_holds_at_most_so_many_tokens_and_no_example_more_would_fit():
    lengths = [[30, 20, 50, 10, 40, 60, 5]]
    plan = steps(lengths, tokens=100, epochs=3)
    sizes = [tokens_of(step, lengths) for step in plan]
    followers = [lengths[0][step[0].example] for step in plan[1:]]
    assert all(size <= 100 for size in sizes)
    assert all(size + follower > 100 for size, follower in zip(sizes, followers, strict=False))


def test_a_step_may_hold_its_tokens_exactly():
    assert [len(step) for step in steps([[50] * 5], tokens=100)] == [2, 2, 1]


def test_an_example_larger_than_a_steps_tokens_is_a_step_of_its_own():
    assert [len(step) for step in steps([[500, 500]], tokens=100)] == [1, 1]


def test_the_steps_hold_what_is_drawn_in_its_order():
    lengths = [[3, 1, 4, 1, 5, 9], [2, 6]]
    flat = [draw for step in steps(lengths, (1.0, 0.5), tokens=12, max_steps=6) for draw in step]
    assert flat == first(len(flat), lengths, [1.0, 0.5])


def test_without_a_length_the_first_source_is_passed_over_once():
    flat = [draw.example for step in steps([[1] * 9], sequences=2) for draw in step]
    assert sorted(flat) == list(range(9))


@pytest.mark.parametrize(("epochs", "examples"), [(0.5, 5), (1.0, 10), (2.0, 20), (2.25, 22), (0.001, 1)])
def test_epochs_count_the_first_source(epochs, examples):
    flat = [draw for step in steps([[1] * 10, [1] * 3], (1.0, 1.0), sequences=4, epochs=epochs) for draw in step]
    assert sum(draw.source == 0 for draw in flat) == examples


@pytest.mark.parametrize("number", [1, 2, 7])
def test_max_steps_repeats_or_cuts_the_data_to_fit(number):
    plan = steps([[1] * 5], sequences=3, max_steps=number)  # a pass is less than two steps
    assert [len(step) for step in plan] == [3] * number


def test_more_steps_begin_as_fewer_do():
    lengths = [[3, 1, 4, 1, 5, 9, 2, 6]]
    assert steps(lengths, tokens=10, max_steps=9)[:4] == steps(lengths, tokens=10, max_steps=4)
