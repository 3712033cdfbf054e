"""A step's examples over workers and micro-batches: the same ones, each once, whatever the split."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch

from fettle.data.batches import IGNORE
from fettle.data.tokens import TokenExample
from fettle.train.causal import CausalTask
from fettle.train.trainer import MicroBatches, training_arguments


def example(number: int, length: int) -> TokenExample:
    return TokenExample(np.full(length, number, dtype=np.int32), np.ones(length, dtype=bool))


@pytest.fixture
def steps() -> list[list[TokenExample]]:
    """Three steps of examples whose every token is their number (from 1)."""
    given = random.Random(0)
    return [
        [example(1 + 10 * step + i, given.randint(2, 16)) for i in range(size)] for step, size in enumerate((9, 7, 2))
    ]


def batches(steps: list[list[TokenExample]], rank: int = 0, world: int = 1, accumulate: int = 1, **how) -> MicroBatches:
    how = {"max_length": 32, "packing": True, "pad_id": 0} | how
    return MicroBatches(steps, rank, world, accumulate, CausalTask(**how).collate)


def labels_of(micro_batches: list[dict[str, torch.Tensor]]) -> Counter[int]:
    return Counter(int(label) for batch in micro_batches for label in batch["labels"].flatten() if label != IGNORE)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 4), (2, 2), (3, 4)])
def test_a_steps_labels_are_the_same_for_any_number_of_workers_and_micro_batches(steps, world, accumulate, packing):
    members = [list(batches(steps, rank, world, accumulate, packing=packing)) for rank in range(world)]
    for number, examples in enumerate(steps):
        mine = [batch for one in members for batch in one[number * accumulate : (number + 1) * accumulate]]
        assert labels_of(mine) == Counter({int(e.input_ids[0]): len(e.input_ids) - 1 for e in examples})


def test_every_worker_has_as_many_micro_batches_in_every_step(steps):
    members = [list(batches(steps, rank, world=3, accumulate=4)) for rank in range(3)]
    assert [len(one) for one in members] == [12, 12, 12] == [len(batches(steps, world=3, accumulate=4))] * 3


def test_a_worker_without_examples_gets_padding_without_loss(steps):
    last = [list(batches(steps, rank, world=3))[-1] for rank in range(3)]  # two examples for three workers
    assert sorted(sum(labels_of([batch]).values()) > 0 for batch in last) == [False, True, True]


def test_workers_shares_differ_by_at_most_the_longest_example(steps):
    members = [next(iter(batches(steps, rank, world=2))) for rank in range(2)]
    sizes = [int((batch["input_ids"] > 0).sum()) for batch in members]
    assert abs(sizes[0] - sizes[1]) <= max(len(e.input_ids) for e in steps[0])


def test_there_are_as_many_micro_batches_as_steps_and_splits(steps):
    assert len(batches(steps, accumulate=2)) == 6 == len(list(batches(steps, accumulate=2)))


def test_trl_neither_packs_nor_cuts_nor_casts_nor_reports_by_itself(tmp_path):
    args = training_arguments(tmp_path, max_steps=3, use_cpu=True)
    assert (args.packing, args.max_length, args.bf16, args.report_to) == (False, None, False, [])
