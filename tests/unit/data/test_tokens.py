"""Encoded examples on disk, and which of them are held out."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from fettle.data.tokens import TokenExample, TokenSet, choose_heldout, positions_without, write_tokens
from fettle.recipe.data import HeldoutSpec


def example(*ids: int, learned: int = 0) -> TokenExample:
    """The ids, of which the last `learned` bear loss."""
    mask = [False] * (len(ids) - learned) + [True] * learned
    return TokenExample(np.asarray(ids, dtype=np.int32), np.asarray(mask))


def plain(examples: Sequence[TokenExample]) -> list[tuple[list[int], list[bool]]]:
    return [(one.input_ids.tolist(), one.loss_mask.tolist()) for one in examples]


def heldout(path: Path, ids: list[int], **spec: object) -> tuple[list[int], list[int]]:
    """What `choose_heldout` says of one-token examples: (values trained on, values held out)."""
    tokens = write_tokens(path, [example(one) for one in ids])
    train, out = choose_heldout(tokens, HeldoutSpec.model_validate({"fraction": 0.1} | spec))
    assert sorted([*train, *out]) == list(range(len(ids)))  # each position on one side
    return sorted(ids[i] for i in train), sorted(ids[i] for i in out)


def test_examples_come_back_as_they_were_written(tmp_path):
    given = [example(5, 6, 7, learned=2), example(8, learned=1), example(9, 10)]
    assert plain(write_tokens(tmp_path / "set", given)) == [
        ([5, 6, 7], [False, True, True]),
        ([8], [True]),
        ([9, 10], [False, False]),
    ]


def test_another_reader_finds_the_same(tmp_path):
    written = write_tokens(tmp_path / "set", [example(5, 6, learned=1)], counts=lambda: {"cut": 3})
    read = TokenSet(tmp_path / "set")
    assert plain(read) == plain(written) and read.counts == {"cut": 3}


def test_lengths_are_of_tokens(tmp_path):
    tokens = write_tokens(tmp_path / "set", [example(5, 6, 7, learned=2), example(8, 9, learned=2), example(1)])
    assert tokens.lengths().tolist() == [3, 2, 1]


def test_a_set_of_several_folders_is_their_examples_one_after_the_other(tmp_path):
    parts = [[example(5, 6, learned=1), example(7)], [], [example(8, 9)]]
    for number, part in enumerate(parts):
        write_tokens(tmp_path / str(number), part, counts=lambda n=number: {"records": n + 1, "longest": 9 - n})
    tokens = TokenSet(*(tmp_path / str(number) for number in range(3)))
    assert plain(tokens) == plain([one for part in parts for one in part])
    assert (tokens.lengths().tolist(), tokens.counts) == ([2, 1, 2], {"records": 6, "longest": 9})


def test_positions_count_from_both_ends_and_no_further(tmp_path):
    tokens = write_tokens(tmp_path / "set", [example(5), example(6, 7)])
    assert (len(tokens), tokens[-1].input_ids.tolist(), tokens[-2].input_ids.tolist()) == (2, [6, 7], [5])
    for position in (2, -3):
        with pytest.raises(IndexError):
            tokens[position]


def test_an_empty_set_is_a_set(tmp_path):
    tokens = write_tokens(tmp_path / "set", [])
    assert (len(tokens), list(tokens), tokens.lengths().tolist()) == (0, [], [])


def test_counts_are_asked_after_the_last_example(tmp_path):
    seen: list[int] = []

    def examples() -> Iterator[TokenExample]:
        for one in (1, 2, 3):
            seen.append(one)
            yield example(one)

    assert write_tokens(tmp_path / "set", examples(), counts=lambda: {"seen": len(seen)}).counts == {"seen": 3}


def test_an_error_among_the_examples_leaves_nothing(tmp_path):
    def examples() -> Iterator[TokenExample]:
        yield example(1)
        raise ValueError("broken record")

    with pytest.raises(ValueError, match="broken record"):
        write_tokens(tmp_path / "cache" / "set", examples())
    assert list(tmp_path.iterdir()) == [] or os.listdir(tmp_path / "cache") == []


def test_an_error_while_writing_leaves_nothing(tmp_path):
    def counts() -> dict[str, int]:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_tokens(tmp_path / "cache" / "set", [example(1)], counts=counts)
    assert os.listdir(tmp_path / "cache") == []


def test_a_set_that_is_there_already_stays_as_it_is(tmp_path):
    write_tokens(tmp_path / "set", [example(1)])
    assert plain(write_tokens(tmp_path / "set", [example(2)])) == [([1], [False])]
    assert os.listdir(tmp_path) == ["set"]


def test_the_choice_does_not_depend_on_the_order(tmp_path):
    ids = list(range(100))
    shuffled = random.Random(0).sample(ids, 100)
    assert heldout(tmp_path / "a", ids) == heldout(tmp_path / "b", shuffled)


def test_a_share_of_the_examples_is_held_out_but_no_more_than_max(tmp_path):
    assert len(heldout(tmp_path / "a", list(range(100)))[1]) == 10
    assert len(heldout(tmp_path / "a", list(range(100)), max=4)[1]) == 4


def test_equal_examples_fall_on_the_same_side(tmp_path):
    train, out = heldout(tmp_path / "a", [one for one in range(50) for _ in range(3)])
    assert not set(train) & set(out) and len(out) >= 15


@pytest.mark.parametrize("common", range(8))
def test_an_example_that_is_there_very_often_does_not_make_it_more_than_max(tmp_path, common):
    # Whatever hash the common one has, it is either too many to hold out, or stays.
    _, out = heldout(tmp_path / "a", [common] * 500 + list(range(100, 150)), fraction=0.1, max=20)
    assert 0 < len(out) <= 20


def test_at_least_one_is_held_out_of_a_few_and_never_all(tmp_path):
    assert [len(side) for side in heldout(tmp_path / "a", [1, 2])] == [1, 1]
    assert [len(side) for side in heldout(tmp_path / "b", [1, 2, 3], fraction=0.99)] == [1, 2]


def test_of_examples_that_are_all_equal_none_is_held_out(tmp_path):
    assert heldout(tmp_path / "a", [7, 7, 7]) == ([7, 7, 7], [])


def test_one_more_example_moves_no_other_one_into_training_but_the_last_chosen(tmp_path):
    before, after = (set(heldout(tmp_path / str(n), list(range(n)))[1]) for n in (100, 101))
    assert len(before - after) <= 1


def test_what_equals_a_held_out_example_is_left_out_wherever_it_is(tmp_path):
    tokens = write_tokens(tmp_path / "set", [example(1, 2), example(3, 4), example(1, 2, learned=1), example(1, 2, 3)])
    assert positions_without(tokens, [example(1, 2), example(9)]).tolist() == [1, 3]


def test_writing_holds_no_more_than_a_few_examples(tmp_path):
    def examples() -> Iterator[TokenExample]:
        for number in range(2000):
            yield example(*[number] * 10_000)  # 100 MB in all

    tracemalloc.start()
    write_tokens(tmp_path / "set", examples())
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()
