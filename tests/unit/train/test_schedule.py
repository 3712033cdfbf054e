"""The learning rate, done by hand: 13 steps with a warm-up of 0.25 are 3 that rise and 10 that fall in 9 parts."""

from __future__ import annotations

import pytest

from fettle.recipe.optimizer import ScheduleSpec
from fettle.train.schedule import rate_at

# Of the way from the end of the warm-up (step 3) to the last step (12): a third, two thirds, all of it.
THIRD, TWO_THIRDS, END = 6, 9, 12


def rates(kind: str, *steps: int, warmup: float = 0.25, of: int = 13, **keys: float) -> list[float]:
    spec = ScheduleSpec.model_validate({"kind": kind, "warmup": warmup} | keys)
    return [rate_at(step, of, spec) for step in steps]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
def test_the_rate_rises_in_equal_parts_to_the_peak(kind):
    assert rates(kind, 0, 1, 2, 3) == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1])


def test_linear_falls_in_equal_parts_to_the_floor():
    # 0.1 + 0.9 · (2/3, 1/3, 0)
    assert rates("linear", THIRD, TWO_THIRDS, END) == pytest.approx([0.7, 0.4, 0.1])


def test_cosine_falls_by_half_a_wave_to_the_floor():
    # (1 + cos 60°)/2 = 0.75, (1 + cos 120°)/2 = 0.25; 0.1 + 0.9 · (0.75, 0.25, 0)
    assert rates("cosine", THIRD, TWO_THIRDS, END) == pytest.approx([0.775, 0.325, 0.1])


def test_constant_stays_at_the_peak():
    assert rates("constant", THIRD, END) == [1.0, 1.0]


def test_wsd_stays_at_the_peak_and_falls_in_equal_parts_over_the_decay():
    # Of 20 steps 5 rise and the last 4 (a fifth) fall, from the peak at step 15 by a quarter of 0.9 each.
    assert rates("wsd", 4, 5, 10, 15, of=20, decay=0.2) == pytest.approx([5 / 6, 1, 1, 1])
    assert rates("wsd", 16, 17, 18, 19, of=20, decay=0.2) == pytest.approx([0.775, 0.55, 0.325, 0.1])


def test_wsd_that_decays_all_after_the_warm_up_is_linear():
    steps = range(20)
    assert rates("wsd", *steps, of=20, decay=0.75) == pytest.approx(rates("linear", *steps, of=20))


def test_before_its_decay_wsd_does_not_depend_on_how_many_steps_there_are():
    assert rates("wsd", *range(50), warmup=0.1, of=100) == rates("wsd", *range(50), warmup=0.05, of=200)


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_a_floor_of_0_ends_at_0_and_a_floor_of_1_never_falls(kind):
    assert rates(kind, END, floor=0.0) == pytest.approx([0.0])
    assert rates(kind, 3, THIRD, END, floor=1.0) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_after_the_last_step_it_stays_at_the_floor(kind):
    assert rates(kind, 13, 14, 1000) == pytest.approx([0.1] * 3)


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert rates("cosine", 0, warmup=0.0) == [1.0]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
def test_a_single_step_is_at_the_peak(kind):
    assert rates(kind, 0, of=1) == [1.0]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.9])
def test_no_step_is_without_a_rate_or_above_the_peak(kind, warmup):
    for steps in range(1, 40):
        found = rates(kind, *range(steps), warmup=warmup, of=steps)
        assert 0 < min(found) <= max(found) <= 1
