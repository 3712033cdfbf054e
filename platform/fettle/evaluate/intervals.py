"""Means over records, each with the interval that another draw of records would leave it in.

Efron 1979, "Bootstrap methods: another look at the jackknife"; the percentile interval is that of Efron & Tibshirani
1993, "An Introduction to the Bootstrap", section 13.3. A ratio is resampled as a whole, numerator and denominator of a
record together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_RESAMPLES, _AT_ONCE, _CONFIDENCE = 2000, 100, 0.95


@dataclass(frozen=True)
class Score:
    """A mean over `records` and its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    records: int


def with_interval(values: Sequence[float], seed: int) -> Score:
    """The mean of some values, and where 95 % of the means of 2,000 resamples lie; the same for the same seed."""
    return of_ratio(values, np.ones(len(values)), seed)


def of_ratio(sums: Sequence[float] | np.ndarray, counts: Sequence[int] | np.ndarray, seed: int) -> Score:
    """The sum of `sums` over the sum of `counts`, such as nats a token, with the interval of 2,000 resamples.

    sums: [N], by record; counts: [N], above 0. Of the difference of two such means over the same records,
    `of_ratio(sums_after - sums_before, counts, seed)`, the interval is the paired one: what makes a record hard for
    both cancels out.
    """
    top, bottom = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    dice = np.random.default_rng(seed)
    found = []
    for _ in range(_RESAMPLES // _AT_ONCE):
        chosen = dice.integers(len(top), size=(_AT_ONCE, len(top)))
        found.append(top[chosen].sum(axis=1) / bottom[chosen].sum(axis=1))
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return Score(float(top.sum() / bottom.sum()), float(low), float(high), len(top))


def of_statistic(
    values: Sequence[Any], statistic: Callable[[list[Any]], float], seed: int, resamples: int = _RESAMPLES
) -> Score:
    """Any statistic of some values, such as a corpus' BLEU, with the interval of its resamples: slow, where there is no
    closed form."""
    dice = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        found.append(float(statistic([values[place] for place in dice.integers(len(values), size=len(values))])))
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Score(float(statistic(list(values))), float(low), float(high), len(values))
