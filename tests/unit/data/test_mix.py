"""Which example comes next, and what an optimizer step learns from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise

import numpy as np
import pytest

from fettle.data.mix import Cursor, Mix, Step, steps_of
from fettle.errors import UserError


@dataclass(frozen=True)
class Draw:
    """An example that stands for its place in the mix."""

    source: int
    example: int
    part: int
    size: int


@dataclass(frozen=True)
class Source:
    """Records of which only the number of tokens matters: one for each example, or a list for one of several parts."""

    number: int
    lengths: list[int | list[int]]

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, positions: np.ndarray) -> list[list[Draw]]:
        found = []
        for position in positions[:3].tolist():  # fewer than asked for, as a source may
            parts = self.lengths[position]
            sizes = parts if isinstance(parts, list) else [parts]
            found.append([Draw(self.number, position, part, size) for part, size in enumerate(sizes)])
        return found


Lengths = list[list[int | list[int]]]


def mixed(lengths: Lengths, weights: Sequence[float], seed: int = 0, cursor: Cursor | None = None) -> Mix[Draw]:
    sources = [Source(number, each) for number, each in enumerate(lengths)]
    return Mix(sources, list(weights), seed, lambda draw: draw.size, cursor)


def first(count: int, lengths: Lengths, weights: Sequence[float], seed: int = 0) -> list[Draw]:
    mix = mixed(lengths, weights, seed)
    return [mix.draw() for _ in range(count)]


def planned(
    lengths: Lengths, weights: Sequence[float] = (1.0,), seed: int = 0, cursor: Cursor | None = None, **how: int | None
) -> Iterator[Step[Draw]]:
    given = {"tokens": None, "sequences": None, "records": None} | how
    return steps_of(mixed(lengths, weights, seed, cursor), **given)


def steps(lengths: Lengths, weights: Sequence[float] = (1.0,), **how: int | None) -> list[list[Draw]]:
    """The steps of one pass over the first source, or of `records` of it."""
    return [step.examples for step in planned(lengths, weights, **({"records": len(lengths[0])} | how))]


def tokens_of(step: list[Draw]) -> int:
    return sum(draw.size for draw in step)


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
    for draw in first(500, lengths, weights):
        held[draw.source] += draw.size
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
    plan = steps([[30, 20, 50, 10, 40, 60, 5]], tokens=100, records=21)
    assert all(tokens_of(step) <= 100 for step in plan)
    assert all(tokens_of(step) + after[0].size > 100 for step, after in pairwise(plan))


def test_a_step_may_hold_its_tokens_exactly():
    assert [len(step) for step in steps([[50] * 5], tokens=100)] == [2, 2, 1]


def test_an_example_larger_than_a_steps_tokens_is_a_step_of_its_own():
    assert [len(step) for step in steps([[500, 500]], tokens=100)] == [1, 1]


def test_the_steps_hold_what_is_drawn_in_its_order():
    lengths = [[3, 1, 4, 1, 5, 9], [2, 6]]
    flat = [draw for step in steps(lengths, (1.0, 0.5), tokens=12, records=30) for draw in step]
    assert flat == first(len(flat), lengths, [1.0, 0.5])


@pytest.mark.parametrize("records", [1, 5, 10, 20, 22])
def test_the_steps_end_after_so_many_records_of_the_first_source(records):
    flat = [draw for step in steps([[1] * 10, [1] * 3], (1.0, 1.0), sequences=4, records=records) for draw in step]
    assert sum(draw.source == 0 for draw in flat) == records


def test_one_pass_over_the_first_source_has_each_of_its_records_once():
    flat = [draw.example for step in steps([[1] * 9], sequences=2) for draw in step]
    assert sorted(flat) == list(range(9))


def test_without_an_end_the_data_is_repeated():
    plan = [step.examples for step in islice(planned([[1] * 5], sequences=3), 7)]
    assert [len(step) for step in plan] == [3] * 7


def test_the_parts_of_a_record_follow_one_another():
    drawn = first(12, [[[5, 5, 2], 4, [5, 1], 3]], [1.0])
    assert [(draw.example, draw.part) for draw in drawn if draw.example == 0] == [(0, 0), (0, 1), (0, 2)] * 2
    assert all(after.part == 0 or after.example == draw.example for draw, after in pairwise(drawn))


def test_a_record_without_examples_is_passed_over():
    assert {draw.example for draw in first(20, [[1, [], 2, [], []]], [1.0])} == {0, 2}


@pytest.mark.parametrize("lengths", [[], [[], []]])
def test_a_source_without_any_example_is_an_error_and_no_endless_loop(lengths):
    with pytest.raises(UserError, match="no example"):
        first(2, [[1], lengths], [1.0, 1.0])


# Weights, a record of parts, blank ones, a source of one record, and several passes of each.
SOURCES: Lengths = [[3, 1, [9, 9, 4], 1, [], 5, 9], [2, 6, []], [7]]


@pytest.mark.parametrize("how", [{"tokens": 12}, {"sequences": 3}])
def test_from_the_cursor_after_any_step_the_rest_is_that_of_the_undisturbed_mix(how):
    whole = list(planned(SOURCES, (1.0, 0.5, 0.2), records=40, **how))
    for number, step in enumerate(whole):
        cursor = Cursor(**json.loads(json.dumps(asdict(step.after)), object_hook=tuples))
        assert list(planned(SOURCES, (1.0, 0.5, 0.2), cursor=cursor, records=40, **how)) == whole[number + 1 :]


def tuples(told: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value) for key, value in told.items()}


def test_a_cursor_behind_the_first_pass_does_not_walk_through_what_lies_before():
    class Watched(Source):
        def take(self, positions: np.ndarray) -> list[list[Draw]]:
            taken.extend(positions[:3].tolist())
            return super().take(positions)

    taken: list[int] = []
    at = Cursor(passes=(1000,), records=(2,), parts=(0,), tokens=(10**9,))
    Mix([Watched(0, [1] * 9)], [1.0], 0, lambda draw: draw.size, at).draw()
    assert len(taken) == 3
