"""What a stage learns from, step by step, and what it keeps out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fettle.data.tokens import TokenExample
from fettle.errors import UserError
from fettle.train.causal import CausalTask
from fettle.train.curriculum import Curriculum, StepsUnderway, curriculum, read_cursor
from fettle.train.trainer import MicroBatches


def examples(*numbers: int, length: int = 4) -> list[TokenExample]:
    """One example a number, all its tokens that number, the last two bearing loss."""
    mask = np.asarray([False] * (length - 2) + [True] * 2)
    return [TokenExample(np.full(length, number, dtype=np.int32), mask) for number in numbers]


def numbers(step: list[TokenExample]) -> list[int]:
    return [int(one.input_ids[0]) for one in step]


def trained(lessons: Curriculum) -> list[list[int]]:
    return [numbers(step) for step in StepsUnderway(lessons)]


def test_a_share_of_the_first_source_is_held_out_and_never_trained_on(make_job):
    job = make_job(examples(*range(100)), examples(*range(100, 120)), batch={"sequences": 8})
    lessons = curriculum(job)
    out, learned = set(numbers(lessons.heldout)), {n for step in trained(lessons) for n in step}
    assert len(out) == 2 and max(out) < 100  # 2 % of the first source
    assert not out & learned and set(range(100)) - out <= learned


def test_held_out_data_of_its_own_leaves_the_sources_whole(make_job):
    job = make_job(examples(*range(20)), heldout_set=examples(50, 51), batch={"sequences": 8})
    lessons = curriculum(job)
    assert numbers(lessons.heldout) == [50, 51]
    assert sorted(n for step in trained(lessons) for n in step) == list(range(20))


def test_a_stage_says_how_much_is_held_out(make_job):
    job = make_job(examples(*range(40)), heldout={"fraction": 0.5, "max": 10}, batch={"sequences": 8})
    assert len(curriculum(job).heldout) == 10


def test_the_curriculum_is_the_same_each_time_and_another_one_with_another_seed(make_job):
    first, again, other = (
        trained(curriculum(make_job(examples(*range(30)), seed=seed, batch={"sequences": 4}))) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_what_is_held_out_of_the_first_source_is_not_trained_on_in_another_one_either(make_job):
    job = make_job(examples(*range(100)), examples(*range(200), *range(100)), batch={"sequences": 8}, epochs=3)
    lessons = curriculum(job)
    out = set(numbers(lessons.heldout))
    assert out and not out & {n for step in trained(lessons) for n in step}


def test_a_source_of_which_everything_is_held_out_is_an_error(make_job):
    first = curriculum(make_job(examples(*range(100)), name="once"))
    job = replace(
        make_job(examples(*range(100)), list(first.heldout), name="again"), data=(("a.jsonl", "1"), ("b.jsonl", "2"))
    )
    with pytest.raises(UserError, match="every example of b.jsonl is held out"):
        curriculum(job)


@pytest.mark.parametrize(("epochs", "count"), [(0.5, 5), (1, 10), (2.25, 22), (0.001, 1)])
def test_epochs_count_the_first_source(make_job, epochs, count):
    heldout = examples(50)
    job = make_job(examples(*range(10)), examples(20, 21), heldout_set=heldout, batch={"sequences": 4}, epochs=epochs)
    lessons = curriculum(job)
    steps = trained(lessons)
    assert sum(number < 20 for step in steps for number in step) == count
    assert lessons.num_steps == len(steps)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_max_steps_repeats_or_cuts_the_data_to_fit(make_job, number):
    job = make_job(examples(*range(5)), heldout_set=examples(50), batch={"sequences": 3}, max_steps=number)
    assert [len(step) for step in trained(curriculum(job))] == [3] * number


@pytest.mark.parametrize("length", [{"max_steps": 9}, {"epochs": 1.5}])
def test_a_resumed_stage_begins_with_the_very_next_record(make_job, tmp_path, length):
    job = make_job(examples(*range(30)), examples(*range(40, 47)), batch={"sequences": 4}, weights=(1.0, 0.3), **length)
    whole = trained(curriculum(job))
    underway = StepsUnderway(curriculum(job))
    for number, step in enumerate(underway, start=1):
        assert numbers(step) == whole[number - 1] == numbers(underway[number])
        underway.write(tmp_path, number)
        rest = StepsUnderway(curriculum(job), start=number, cursor=read_cursor(tmp_path))
        assert [numbers(step) for step in rest] == whole[number:] and len(rest) == len(whole)


@pytest.mark.parametrize("world", [1, 2])
def test_each_of_the_workers_goes_on_with_its_very_next_micro_batch(make_job, tmp_path, world):
    job = make_job(examples(*range(30)), examples(*range(40, 47)), batch={"sequences": 4}, weights=(1.0, 0.3))

    def batches(steps, rank):
        rows = CausalTask(max_length=64, packing=True, pad_id=0).collate
        return [batch["input_ids"].tolist() for batch in MicroBatches(steps, rank, world, 2, rows)]

    underway = StepsUnderway(curriculum(job))
    next(steps := iter(underway)), next(steps)
    underway.write(tmp_path, 2)
    for rank in range(world):
        rest = StepsUnderway(curriculum(job), start=2, cursor=read_cursor(tmp_path))
        assert batches(rest, rank) == batches(StepsUnderway(curriculum(job)), rank)[4:] != []


def test_a_step_is_remembered_while_the_ones_after_it_are_prepared(make_job):
    job = make_job(examples(*range(30)), batch={"sequences": 2}, max_steps=9)
    underway = StepsUnderway(curriculum(job))
    steps = iter(underway)
    first = [numbers(next(steps)) for _ in range(4)]
    assert numbers(underway[1]) == first[0]
    list(steps)
    with pytest.raises(KeyError):
        underway[1]
