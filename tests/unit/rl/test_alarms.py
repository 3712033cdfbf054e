"""What is alarming, what is noise, and that each alarm is said when it begins."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from fettle.errors import FettleError
from fettle.rl.alarms import alarms, check_gap

Said = Callable[..., list[tuple[int, str]]]


@pytest.fixture
def said(make_row: Any) -> Said:
    """`said(count, told, kl_target)`: (iteration, alarm) of a run whose iteration i is make_row(i, **told(i))."""

    def said(
        count: int, told: Callable[[int], dict[str, Any]], kl_target: float | None = None
    ) -> list[tuple[int, str]]:
        rows = [make_row(i, **told(i)) for i in range(count)]
        return [(i, alarm) for i in range(count) for alarm in alarms(rows[: i + 1], kl_target)]

    return said


def test_a_run_with_nothing_remarkable_has_no_alarm(said):
    assert said(40, lambda i: {"reward": i / 40, "judges": {"taste": 0.5}}) == []


def test_answers_that_have_grown_by_more_than_half_are_told_once(said):
    # Iteration i has 16 + i tokens, and the mean of it and the four before is 14 + i, above 1.5 · 20 from 17 on.
    ((iteration, alarm),) = said(40, lambda i: {"length": 20.0 + max(0, i - 4)})
    assert iteration == 17 and alarm.startswith("answers have grown from 20 to 31 tokens")


def test_answers_that_have_shrunk_by_a_third_are_told_once(said):
    # Iteration i has 40 − i tokens, and the mean of it and the four before is 42 − i, below 38 / 1.5 from 17 on.
    ((iteration, alarm),) = said(40, lambda i: {"length": 40.0 - i})
    assert iteration == 17 and alarm.startswith("answers have shrunk from 38 to 25 tokens")


def test_repetition_that_has_risen_by_a_tenth_is_told_once(said):
    ((iteration, alarm),) = said(40, lambda i: {"repetition": 0.05 if i < 20 else 0.5})
    assert iteration == 21  # (3 · 0.05 + 2 · 0.5) / 5 = 0.23 > 0.05 + 0.1; with one of them 0.14
    assert alarm.startswith("23% of the n-grams in an answer are repeated, 5% in the first iterations")


@pytest.mark.parametrize(
    ("target", "iteration", "bound"),
    [(6.0, 20, "more than 3 times the target 6"), (None, 32, "more than 30")],  # (i − 1) > 18, (i − 1) > 30
)
def test_a_divergence_above_its_bound_that_grows_is_told_once(said, target, iteration, bound):
    ((at, alarm),) = said(60, lambda i: {"kl": float(i)}, target)
    assert at == iteration and bound in alarm


def test_a_high_divergence_that_falls_is_no_alarm(said):
    assert said(40, lambda i: {"kl": 200.0 - i}) == []


def test_no_divergence_is_no_alarm_without_a_reference(said):
    assert said(40, lambda i: {"kl": math.nan}) == []


def test_a_reward_that_rises_while_a_judge_falls_is_told_with_the_judges_name(said):
    noise = random.Random(0)

    def told(i: int) -> dict[str, Any]:
        near = noise.gauss(0, 0.05)
        return {"reward": i / 20 + near, "judges": {"taste": 1 - i / 20 + near, "format": noise.gauss(0.5, 0.05)}}

    ((iteration, alarm),) = said(30, told)
    assert iteration == 9 and "the reward has risen" in alarm and "the judge taste has fallen" in alarm


def test_a_judge_of_pure_noise_is_no_alarm(said):
    noise = random.Random(0)
    assert said(200, lambda i: {"reward": i / 200, "judges": {"taste": noise.gauss(0.5, 0.2)}}) == []


def test_a_judge_that_falls_together_with_the_reward_is_no_alarm(said):
    assert said(40, lambda i: {"reward": -float(i), "judges": {"taste": -float(i)}}) == []


def test_a_judge_that_always_says_the_same_is_no_alarm(said):
    assert said(40, lambda i: {"reward": i / 7, "judges": {"taste": 0.1}}) == []


def test_groups_that_are_all_rewarded_alike_are_told_after_three_iterations_and_once(said):
    ((iteration, alarm),) = said(40, lambda i: {"alike": 1.0, "reward": 0.0})
    assert iteration == 2 and "nothing is learned" in alarm
    assert said(40, lambda i: {"alike": 1.0 if i % 3 else 0.9}) == []


def test_answers_that_are_broken_off_are_told_once(said):
    ((iteration, alarm),) = said(40, lambda i: {"truncated": 0.5})
    assert iteration == 2 and alarm.startswith("50% of the answers are broken off (the longest has 64 tokens)")


def test_an_alarm_is_said_again_only_after_ten_iterations_without_it(said):
    assert [i for i, _ in said(30, lambda i: {"truncated": 0.5 if i % 2 else 0.0})] == [3]  # 0.33, 0.17, 0.33, …
    assert [i for i, _ in said(40, lambda i: {"truncated": 0.5 if i < 4 or i >= 20 else 0.0})] == [2, 21]


def test_a_gap_below_both_bounds_says_nothing(make_row):
    assert check_gap(make_row(gap={"mean": 0.019, "max": 3.0}), 0.02, 0.2) is None


def test_a_gap_from_warn_on_is_a_warning(make_row):
    told = check_gap(make_row(7, gap={"mean": 0.02, "max": 3.0}), 0.02, 0.2)
    assert told is not None and told.startswith("iteration 7: ") and "0.02 nats a token (at most 3)" in told


def test_a_gap_from_stop_on_ends_the_run_with_its_likely_causes(make_row):
    one = make_row(7, version=7, oldest_version=5, gap={"mean": 0.2, "max": 3.0}, probe=0.4)
    with pytest.raises(FettleError) as error:
        check_gap(one, 0.02, 0.2)
    told = str(error.value)
    assert all(part in told for part in ("iteration 7", "gap.stop is 0.2", "dtype", "template", "0.4 nats off"))
    assert "2 versions behind the learner" in told


@pytest.mark.parametrize("broken", [{"loss": math.nan}, {"grad_norm": math.inf}, {"value_loss": math.nan}])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_run(make_row, broken):
    with pytest.raises(FettleError, match=f"not finite: {next(iter(broken))}"):
        check_gap(make_row(**broken), 0.02, 0.2)


def test_a_gap_that_is_no_number_ends_the_run(make_row):
    with pytest.raises(FettleError, match="not finite: gap nan"):
        check_gap(make_row(gap={"mean": math.nan, "max": 0.0}), 0.02, 0.2)


def test_of_stale_rollouts_the_fixed_prompts_decide(make_row) -> None:
    """The gap of 0.3 holds the step in between; the engine itself is 1e-5 off, or 0.5."""
    stale = {"version": 3, "oldest_version": 2, "gap": {"mean": 0.3, "max": 1.0}}
    assert "0.3 nats" in str(check_gap(make_row(**stale, probe=1e-5), 0.02, 0.2))
    with pytest.raises(FettleError, match="gap.stop"):
        check_gap(make_row(**stale, probe=0.5), 0.02, 0.2)
