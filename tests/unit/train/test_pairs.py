"""Which answers of a record make a pair, for every kind of stage that learns from pairs."""

from __future__ import annotations

import numpy as np
import pytest

from fettle.train.pairs import pairs_of


@pytest.mark.parametrize(
    ("values", "pairs"),
    [
        ([0.0, 0.0, 0.0], [(0, 1), (0, 2), (1, 2)]),  # nothing said but the order
        ([0.5, 0.0], [(0, 1)]),  # a margin, or two scores
        ([-0.5, 0.0], [(1, 0)]),  # a negative margin turns the pair round
        ([0.0, -1.0], [(0, 1)]),
        ([3.0, 2.0, 2.0], [(0, 1), (0, 2)]),
        ([1.0, 0.0, 0.0], [(0, 1), (0, 2)]),  # tied at 0 is tied
        ([2.0, 2.0], []),
    ],
)
def test_the_answer_of_the_larger_value_is_better_and_ties_make_no_pair(
    values: list[float], pairs: list[tuple[int, int]]
) -> None:
    assert pairs_of(np.array(values, np.float32)) == pairs
