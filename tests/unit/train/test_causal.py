"""What a stage learns from, and what it tells of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fettle.data.tokens import TokenExample
from fettle.train.causal import Curriculum, _cast, _elapsed, _Report, curriculum
from fettle.train.progress import StepRow


def examples(*numbers: int, length: int = 4) -> list[TokenExample]:
    """One example a number, all its tokens that number, the last two bearing loss."""
    mask = np.asarray([False] * (length - 2) + [True] * 2)
    return [TokenExample(np.full(length, number, dtype=np.int32), mask) for number in numbers]


def numbers(step: list[TokenExample]) -> list[int]:
    return [int(one.input_ids[0]) for one in step]


def row(step: int, seconds: float, began: float = 0.0, loss: float = 1.0) -> StepRow:
    return StepRow(
        step, 9, loss, lr=1e-3, grad_norm=1.0, tokens=8, loss_tokens=4, seconds=seconds, time=began + seconds
    )


def test_a_share_of_the_first_source_is_held_out_and_never_trained_on(make_job):
    job = make_job(examples(*range(100)), examples(*range(100, 120)), batch={"sequences": 8})
    lessons = curriculum(job)
    out, trained = set(numbers(lessons.heldout)), {n for step in lessons.steps for n in numbers(step)}
    assert len(out) == 2 and max(out) < 100  # 2 % of the first source
    assert not out & trained and set(range(100)) - out <= trained


def test_held_out_data_of_its_own_leaves_the_sources_whole(make_job):
    job = make_job(examples(*range(20)), heldout_set=examples(50, 51), batch={"sequences": 8})
    lessons = curriculum(job)
    assert numbers(lessons.heldout) == [50, 51]
    assert sorted(n for step in lessons.steps for n in numbers(step)) == list(range(20))


def test_a_stage_says_how_much_is_held_out(make_job):
    job = make_job(examples(*range(40)), heldout={"fraction": 0.5, "max": 10}, batch={"sequences": 8})
    assert len(curriculum(job).heldout) == 10


def test_the_curriculum_is_the_same_each_time_and_another_one_with_another_seed(make_job):
    first, again, other = (
        [numbers(step) for step in curriculum(make_job(examples(*range(30)), seed=seed, batch={"sequences": 4})).steps]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_report_has_the_means_of_the_first_and_the_last_tenth_of_the_steps(make_job):
    job = make_job(examples(1))
    report = _Report(job, Curriculum([], []), write=True)
    report.before, report.after = 4.0, 2.0
    for step in range(1, 21):
        report.writer.write(step=step, steps=20, loss=float(step), lr=1e-3, grad_norm=1.0, tokens=8, loss_tokens=3)
    told = report.metrics()
    assert told["loss"] == {"first": 1.5, "last": 19.5, "heldout_before": 4.0, "heldout_after": 2.0}
    assert (told["steps"], told["tokens"]) == (20, {"loss_bearing": 60, "all": 160})


def test_seconds_are_of_every_attempt_that_led_to_the_result():
    assert _elapsed([row(1, 2.0), row(2, 4.0), row(3, 6.0)]) == 6.0
    # Died after step 2 of the first attempt; the second began 100 s later.
    assert _elapsed([row(1, 2.0), row(2, 4.0), row(3, 1.0, began=100), row(4, 3.0, began=100)]) == 4 + 3


def test_seconds_are_right_where_the_second_attempt_took_longer_to_its_first_step_than_the_first_one_lived():
    assert _elapsed([row(1, 2.0), row(2, 30.0, began=100), row(3, 31.0, began=100)]) == 2 + 31


def test_tied_weights_stay_one_tensor_when_they_are_cast():
    weight = torch.ones(2, 2)
    state = _cast({"embed": weight, "head": weight, "norm": torch.ones(2)}, torch.bfloat16)
    assert state["embed"].data_ptr() == state["head"].data_ptr() != state["norm"].data_ptr()
    assert {value.dtype for value in state.values()} == {torch.bfloat16}


@pytest.mark.parametrize("write", [True, False])
def test_only_the_first_worker_writes_progress(make_job, write):
    assert (_Report(make_job(examples(1)), Curriculum([], []), write=write).writer is not None) is write
