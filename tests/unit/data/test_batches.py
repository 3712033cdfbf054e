"""Examples to rows: nothing lost, nothing too long, no example in reach of another's loss."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fettle.data.batches import IGNORE, collate, pack, share_out

PAD = 9


@dataclass(frozen=True)
class Given:
    """An example done by hand: a loss-bearing id is written negative."""

    ids: tuple[int, ...]

    @property
    def input_ids(self) -> np.ndarray:
        return np.abs(np.asarray(self.ids, dtype=np.int32))

    @property
    def loss_mask(self) -> np.ndarray:
        return np.asarray(self.ids) < 0


def rows(*examples: tuple[int, ...], max_length: int = 6, packing: bool = True) -> dict[str, list[list[int]]]:
    batch = collate([Given(ids) for ids in examples], max_length=max_length, packing=packing, pad_id=PAD)
    return {name: tensor.tolist() for name, tensor in batch.items()}


def test_two_examples_share_a_row_and_positions_restart_at_each():
    assert rows((1, -2, -3, 4), (5, -6)) == {
        "input_ids": [[1, 2, 3, 4, 5, 6]],
        "labels": [[IGNORE, 2, 3, IGNORE, IGNORE, 6]],
        "position_ids": [[0, 1, 2, 3, 0, 1]],
    }


def test_padding_is_an_example_of_its_own_without_loss():
    assert rows((1, -2, -3, -4), (5, -6, -7), max_length=3) == {
        "input_ids": [[1, 2, 3, 4], [5, 6, 7, PAD]],
        "labels": [[IGNORE, 2, 3, 4], [IGNORE, 6, 7, IGNORE]],
        "position_ids": [[0, 1, 2, 3], [0, 1, 2, 0]],
    }


def test_without_packing_each_example_has_its_row_in_its_order():
    assert rows((1, -2), (3, -4, -5), packing=False)["input_ids"] == [[1, 2, PAD], [3, 4, 5]]


def test_the_first_token_of_an_example_is_never_a_label():
    assert rows((-1, -2, -3), (-4, -5))["labels"] == [[IGNORE, 2, 3, IGNORE, 5]]


def test_the_examples_own_mask_is_left_as_it_is():
    example = Given((-1, -2))
    collate([example], max_length=4, packing=True, pad_id=PAD)
    assert example.loss_mask.tolist() == [True, True]


def test_no_examples_give_a_row_of_padding_that_bears_no_loss():
    assert rows() == {"input_ids": [[PAD, PAD]], "labels": [[IGNORE, IGNORE]], "position_ids": [[0, 1]]}


def test_everything_is_int64():
    batch = collate([Given((1, -2))], max_length=4, packing=True, pad_id=PAD)
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@pytest.mark.parametrize("packing", [True, False])
def test_packing_neither_loses_nor_adds_a_label(packing):
    given = random.Random(0)
    examples = [tuple(given.choice((-7, 7)) for _ in range(given.randint(1, 20))) for _ in range(50)]
    labels = [value for row in rows(*examples, max_length=24, packing=packing)["labels"] for value in row]
    assert sum(value != IGNORE for value in labels) == sum(value < 0 for ids in examples for value in ids[1:])


@pytest.mark.parametrize("seed", range(5))
def test_rows_hold_every_example_once_and_are_at_most_two_lengths_long(seed):
    lengths = [random.Random(seed).randint(1, 30) for _ in range(60)]
    packed = pack(lengths, 30)
    assert sorted(position for row in packed for position in row) == list(range(60))
    assert max(sum(lengths[position] for position in row) for row in packed) <= 60


def test_the_rows_are_the_shortest_that_are_nearly_full():
    # 24 tokens, the longest example 6: four rows of 6 are full.
    assert sorted(sum(row) for row in rows_of([6, 2, 4, 5, 1, 3, 3], 100)) == [6, 6, 6, 6]


def test_where_short_rows_would_be_half_empty_longer_ones_are_made():
    # Two rows of 7 would be 13 of 14 tokens full; one of 13 is full, and no longer than two of 10.
    assert rows_of([7, 6], 10) == [[7, 6]]


def test_rows_are_never_longer_than_two_lengths():
    assert rows_of([10, 10, 1], 10) == [[10, 1], [10]]


def rows_of(lengths: list[int], max_length: int) -> list[list[int]]:
    return [[lengths[position] for position in row] for row in pack(lengths, max_length)]


# Tokens of an example, the batch's tokens, max_length: about Alpaca's, whose lengths are nearly log-normal.
@pytest.mark.parametrize("share", [8192, 4096, 2048])
@pytest.mark.parametrize("max_length", [2048, 512])
def test_rows_of_alpacas_lengths_are_98_percent_full(share, max_length):
    given = np.random.default_rng(0)
    used = held = 0
    for _ in range(40):
        lengths = []
        while sum(lengths) < share - 300:
            lengths.append(int(min(max_length, 30 + given.lognormal(4.6, 0.8))))
        packed = pack(lengths, max_length)
        used += sum(lengths)
        held += len(packed) * max(sum(lengths[position] for position in row) for row in packed)
    assert used / held >= 0.98


@pytest.mark.parametrize("bins", [1, 2, 3, 8])
def test_shares_hold_every_example_once_and_differ_by_at_most_the_longest(bins):
    lengths = [random.Random(bins).randint(1, 30) for _ in range(40)]
    shares = share_out(lengths, bins)
    sums = [sum(lengths[position] for position in share) for share in shares]
    assert sorted(position for share in shares for position in share) == list(range(40))
    assert len(shares) == bins and max(sums) - min(sums) <= max(lengths)


def test_with_fewer_examples_than_shares_some_stay_empty():
    assert share_out([5, 3], 4) == [[0], [1], [], []]


def test_one_share_is_everything_in_its_order():
    assert share_out([3, 9, 1], 1) == [[0, 1, 2]]
