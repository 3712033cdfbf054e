"""Ratios of sums over records, and where they would lie with other records."""

from __future__ import annotations

import numpy as np
import pytest

from fettle.evaluate.intervals import of_ratio, of_statistic, with_interval


def test_a_ratio_is_weighted_by_the_counts() -> None:
    found = of_ratio([2.0, 30.0], [1, 9], seed=0)

    assert (found.mean, found.records) == (3.2, 2)  # 32 nats over 10 tokens; the mean of 2 and 30 / 9 would be 2.67
    assert (found.low, found.high) == (
        2.0,
        pytest.approx(30 / 9),
    )  # a quarter of the resamples each is one record twice


def test_a_mean_is_a_ratio_of_counts_of_one() -> None:
    values = [0.1, 0.5, 0.2, 0.9]

    assert with_interval(values, 3) == of_ratio(values, [1, 1, 1, 1], 3)


def test_the_interval_of_a_ratio_of_equal_counts_is_that_of_a_mean() -> None:
    found = of_ratio([0.0] * 50 + [4.0] * 50, [4] * 100, seed=0)

    # The standard error of a share of 0.5 of 100 is 0.05; 95 % lie within 1.96 of them.
    assert (found.low, found.high) == (pytest.approx(0.402, abs=0.011), pytest.approx(0.598, abs=0.011))


def test_what_makes_a_record_hard_for_both_cancels_out_of_a_difference() -> None:
    dice = np.random.default_rng(0)
    hard, tokens = dice.uniform(10, 100, size=40), np.full(40, 10)

    found = of_ratio((hard + 1.0) - hard, tokens, seed=0)  # each record's 10 tokens lose 1 nat more

    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_a_ratio_is_the_same_for_the_same_seed() -> None:
    sums, counts = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.3], [2, 1, 3, 4, 5, 6, 7]

    assert of_ratio(sums, counts, 5) == of_ratio(sums, counts, 5) != of_ratio(sums, counts, 6)


def test_the_interval_of_any_statistic_is_that_of_its_resamples() -> None:
    values = [0.1, 0.5, 0.2, 0.9, 0.4, 0.8]

    found, mean = of_statistic(values, max, seed=0), of_statistic(values, lambda some: sum(some) / len(some), seed=0)

    # 0.9 is missing from a third of the resamples, (5/6)^6, and 0.9 and 0.8 from a tenth, (4/6)^6.
    assert (found.mean, found.low, found.high, found.records) == (0.9, 0.5, 0.9, 6)
    assert mean.mean == pytest.approx(with_interval(values, 0).mean) and mean.low == pytest.approx(0.25, abs=0.05)
