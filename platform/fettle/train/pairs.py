"""Which of a record's answers is better than which other one."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np


def pairs_of(values: np.ndarray) -> list[tuple[int, int]]:
    """(position of the better, of the worse) of a record's answers, all pairs. values: float [K].

    Of two answers the one of the larger value is better, equal ones make no pair. Where all values are 0, nothing is
    said but the order: the best answer comes first.
    """
    if not values.any():
        return list(combinations(range(len(values)), 2))
    return [(i, j) for i, j in permutations(range(len(values)), 2) if values[i] > values[j]]
