"""Tokens that are drawn: as often as they are likely, each row by its own seed."""

from __future__ import annotations

import pytest
import torch

from fettle.models.generate import Draws

LOGITS = torch.tensor([0.5, 0.3, 0.2]).log()


@pytest.mark.parametrize(
    ("temperature", "expected"),
    # At 1/2 the probabilities are squared: 25, 9 and 4 of 38.
    [(1.0, [0.5, 0.3, 0.2]), (0.5, [25 / 38, 9 / 38, 4 / 38])],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float, expected: list[float]) -> None:
    seeds = [str(number) for number in range(4000)]

    drawn = Draws(temperature, seeds)(None, LOGITS.expand(4000, 3)).argmax(-1)

    shares = (torch.bincount(drawn, minlength=3) / 4000).tolist()
    assert shares == pytest.approx(expected, abs=0.03)  # four standard errors of a share of a half


def test_a_row_is_drawn_the_same_whatever_is_beside_it_and_another_way_at_each_token() -> None:
    alone, together = Draws(1.0, ["a"]), Draws(1.0, ["b", "a"])
    found = [alone(None, LOGITS[None])[0] for _ in range(2)]
    others = [together(None, LOGITS.expand(2, 3)) for _ in range(2)]

    torch.testing.assert_close(found, [other[1] for other in others], rtol=0, atol=0)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(others[0][0], others[0][1])
