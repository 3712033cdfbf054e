"""The simulator where the answer is known: sums, bounds, and what a paper worked out."""

from __future__ import annotations

import math

import pytest

from scale_simulator import Iteration, Setting, simulate

ONE = Iteration(learn=3.0, publish=0.25, sync=0.25, score=0.5, reference=0.5, other=0.5, lengths=[[10], [10]])
ONCE = 5.0
GENERATE = 4.0


def per_answer(lengths):
    """Two seconds an answer, whatever its length."""
    return 2.0 * len(lengths)


def test_without_failures_and_in_turns_a_run_takes_the_sum_of_its_phases():
    told = simulate([ONE] * 7, Setting(engines=1, decode=per_answer))

    assert told.seconds == pytest.approx(7 * (ONCE + GENERATE))
    assert told.periods == pytest.approx([ONCE + GENERATE] * 7)


def test_every_second_of_the_learner_and_the_engines_is_accounted_for():
    told = simulate([ONE] * 7, Setting(engines=1, decode=per_answer))

    assert told.learner_busy == pytest.approx(7 * (3.0 + 0.5 + 0.5))
    assert told.engine_busy == pytest.approx(7 * GENERATE)


@pytest.mark.parametrize(("learn", "generate"), [(3.0, 10.0), (10.0, 3.0)])
def test_answers_made_ahead_hide_the_shorter_phase(learn, generate):
    run = [Iteration(learn=learn, lengths=[[1]])] * 40

    told = simulate(run, Setting(engines=1, staleness=1, decode=lambda lengths: generate))

    assert told.periods[10:-1] == pytest.approx([max(learn, generate)] * 29)


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_no_answer_is_older_than_allowed(staleness):
    told = simulate([ONE] * 12, Setting(engines=1, staleness=staleness, decode=per_answer))

    assert told.oldest == staleness


def test_more_ahead_than_one_is_no_faster_where_every_iteration_is_alike():
    one, three = (simulate([ONE] * 50, Setting(engines=1, staleness=s, decode=per_answer)).seconds for s in (1, 3))

    assert three == pytest.approx(one, rel=0.01)


def test_two_engines_share_four_batches():
    # two batches an engine, of a prompt each: two rounds of two seconds
    run = [Iteration(learn=1.0, lengths=[[1]] * 4)]

    assert simulate(run, Setting(engines=2, decode=per_answer)).seconds == pytest.approx(1.0 + 2 * 2.0)


def test_an_engine_that_comes_free_takes_over_from_one_with_long_answers():
    # batches of 9, 1, 1 and 1 seconds: one engine takes the first, the other the rest
    run = [Iteration(learn=0.0, lengths=[[9], [1], [1], [1]])]

    assert simulate(run, Setting(engines=2, decode=lambda lengths: float(lengths[0]))).seconds == pytest.approx(9.0)


def test_many_learners_are_as_slow_as_the_slowest():
    run = [Iteration(learn=1.0)] * 400
    one, many = (simulate(run, Setting(learners=n, jitter=0.1)).seconds / 400 for n in (1, 1000))

    assert one == pytest.approx(1.0, abs=0.02)
    assert many == pytest.approx(math.exp(0.1 * 3.24), rel=0.03)  # of a thousand normal draws the largest is at 3.24 σ


def test_training_alone_takes_its_steps_and_its_pauses():
    told = simulate([Iteration(learn=2.0)] * 10, Setting(checkpoint_every=5, checkpoint_s=1.0))

    assert told.seconds == pytest.approx(10 * 2.0 + 2 * 1.0)


def test_a_checkpoint_waits_for_the_one_before():
    # the second, due after 20 s, waits until 10 + 15: the tenth and last until 10 + 9 · 15
    told = simulate([Iteration(learn=10.0)] * 10, Setting(checkpoint_every=1, writing_s=15.0))

    assert told.seconds == pytest.approx(10 + 9 * 15)


def test_a_group_that_fails_does_again_what_came_after_its_last_checkpoint():
    run = [Iteration(learn=10.0)] * 300
    told = simulate(run, Setting(checkpoint_every=10, group_fails_s=900.0, restart_s=60.0, seed=1))

    least = 300 * 10.0 + told.failures * 60.0 + told.repeated * 10.0
    assert told.failures > 0
    assert least <= told.seconds <= least + told.failures * 10.0  # and what was under way of a step


def test_the_best_time_between_checkpoints_is_youngs():
    # Young 1974: √(2 · cost · mean time between failures) = √(2 · 5 · 2,000) = 141 s, which is 14 steps
    run = [Iteration(learn=10.0)] * 1500

    def seconds(every):
        told = [
            simulate(
                run, Setting(checkpoint_every=every, checkpoint_s=5.0, group_fails_s=2000.0, restart_s=30.0, seed=n)
            )
            for n in range(3)
        ]
        return sum(one.seconds for one in told)

    assert seconds(14) < min(seconds(2), seconds(100))


def test_rollouts_that_were_written_are_not_made_again():
    run = [Iteration(learn=1.0, lengths=[[1]])] * 60
    setting = Setting(engines=1, decode=lambda lengths: 10.0, checkpoint_every=10, group_fails_s=150.0, seed=3)

    told = simulate(run, setting)

    assert told.failures > 0 and told.repeated > 0
    assert told.engine_busy <= 60 * 10.0 + told.failures * 10.0


def test_an_engine_that_dies_has_its_batch_answered_by_its_successor():
    run = [Iteration(learn=1.0, lengths=[[1]] * 8)] * 50
    setting = Setting(engines=2, decode=per_answer, engine_fails_s=60.0, engine_start_s=30.0, seed=5)

    told = simulate(run, setting)

    undisturbed = simulate(run, Setting(engines=2, decode=per_answer)).seconds
    assert told.engine_failures > 0
    assert told.seconds >= undisturbed + 0.5 * told.engine_failures * 30.0
