"""Span corruption: what is taken out of a text, and what stands in its place."""

from __future__ import annotations

import numpy as np
import pytest

from fettle.data.tokens import TokenExample
from fettle.train.spans import SpanCorruption

END = 1
SENTINELS = tuple(range(999, 989, -1))  # 999 is <extra_id_0>


def example(length: int, first: int = 100) -> TokenExample:
    ids = np.arange(first, first + length, dtype=np.int32)
    return TokenExample(ids, np.ones(length, bool))


def spans(**how: float) -> SpanCorruption:
    return SpanCorruption(**{"rate": 0.15, "mean_span": 3.0, "sentinels": SENTINELS, "end_id": END, "seed": 7} | how)


def put_back(read: np.ndarray, written: np.ndarray) -> list[int]:
    """The text, each sentinel replaced by what follows it on the other side."""
    said: dict[int, list[int]] = {}
    for token in written[:-1].tolist():
        if token in SENTINELS:
            said[current := token] = []
        else:
            said[current].append(token)
    return [inner for token in read[:-1].tolist() for inner in said.get(token, [token])]


@pytest.mark.parametrize("length", [2, 3, 7, 20, 60])
@pytest.mark.parametrize("step", range(-1, 4))
def test_the_two_halves_hold_the_whole_text(length: int, step: int) -> None:
    read, written = spans().halves(text := example(length), step)

    assert put_back(read, written) == text.input_ids.tolist()
    assert (read[-1], written[-1]) == (END, END)


def test_as_many_tokens_are_taken_out_in_as_many_spans_as_asked_for() -> None:
    read, written = spans().halves(example(60), 0)

    # 15 % of 60 are 9, in spans of 3 on average: 3 of them, each with a sentinel on both sides, and an end on both.
    assert (len(read), len(written)) == (60 - 9 + 3 + 1, 9 + 3 + 1)
    assert [token for token in written.tolist() if token in SENTINELS] == [999, 998, 997]
    assert [token for token in read.tolist() if token in SENTINELS] == [999, 998, 997]


def test_there_are_no_more_spans_than_sentinels() -> None:
    _, written = spans(rate=0.5, mean_span=1.0).halves(example(60), 0)

    assert sum(token in SENTINELS for token in written.tolist()) == len(SENTINELS)
    assert len(written) == 30 + 10 + 1


def test_no_two_spans_touch() -> None:
    for step in range(30):
        read, _ = spans(rate=0.5, mean_span=1.5).halves(example(12), step)
        is_sentinel = np.isin(read, SENTINELS)

        assert not (is_sentinel[1:] & is_sentinel[:-1]).any()


def test_the_end_of_the_text_is_never_taken_out() -> None:
    ids = np.array([100, 101, END], np.int32)

    found = {tuple(spans().halves(TokenExample(ids, np.ones(3, bool)), step)[0].tolist()) for step in range(20)}

    assert found == {(100, 999, END), (999, 101, END)}


def test_spans_depend_on_seed_step_and_text_alone() -> None:
    def of(step: int, first: int = 100, **how: float) -> list[int]:
        return [token - first * (token < 900) for token in spans(**how).halves(example(60, first), step)[0].tolist()]

    assert of(3) == of(3)
    assert len({tuple(one) for one in (of(3), of(4), of(3, seed=8), of(3, first=200))}) == 4


def test_a_span_is_anywhere_about_as_often() -> None:
    counts = np.zeros(20)
    for step in range(1800):
        counts[np.setdiff1d(np.arange(100, 120), spans().halves(example(20), step)[0]) - 100] += 1

    # Three of 20 in one span begin at one of 18 places, 100 times each; three of them hold a token in the middle.
    assert counts[2:18] == pytest.approx(np.full(16, 300), abs=60)
    assert (counts[0], counts[-1]) == (pytest.approx(100, abs=40), pytest.approx(100, abs=40))


def test_a_single_token_stays_with_nothing_to_learn() -> None:
    read, written = spans().halves(example(1), 0)

    assert (read.tolist(), written.tolist()) == ([100, END], [])
