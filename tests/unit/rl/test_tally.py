"""The figures of an iteration, by hand over two micro-batches of two tokens and one."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest
import torch

from fettle.rl.tally import Figures, Tally

LN2 = math.log(2)
# Token by token: π_old / π_sampler is 1, 2 and ½.
FIRST = {
    "loss": [1.0, 2.0],
    "logprobs": [-1.0, -2.0],
    "old": [-1.0, -2.0],
    "sampler": [-1.0, -2.0 - LN2],
    "is_clipped": [False, True],
    "reference": [-1.5, -2.5],
    "value_loss": [0.5, 0.25],
}
SECOND = {
    "loss": [3.0],
    "logprobs": [-3.0],
    "old": [-2.0],
    "sampler": [-2.0 + LN2],
    "is_clipped": [False],
    "reference": [-5.0],
    "value_loss": [0.75],
}
EMPTY: dict[str, Any] = {name: [] for name in FIRST}


def figures(*batches: dict[str, Any], has_reference: bool = True, has_critic: bool = True) -> Figures:
    tally = Tally(has_reference=has_reference, has_critic=has_critic)
    for batch in batches:
        add(tally, batch, has_reference=has_reference, has_critic=has_critic)
    return tally.take(torch.device("cpu"), 1)


def add(tally: Tally, batch: dict[str, Any], *, has_reference: bool = True, has_critic: bool = True) -> None:
    left_out = {"reference": has_reference, "value_loss": has_critic}
    tally.add(**{name: torch.tensor(of) for name, of in batch.items() if left_out.get(name, True)})


def test_figures_are_means_over_the_tokens_of_all_micro_batches() -> None:
    expected = Figures(
        loss=2.0,  # (1 + 2 + 3) / 3
        value_loss=0.5,  # (0.5 + 0.25 + 0.75) / 3
        entropy=2.0,  # (1 + 2 + 3) / 3
        clip_fraction=1 / 3,
        kl=1.0,  # (0.5 + 0.5 + 2) / 3
        ratio_mean=3.5 / 3,  # (1 + 2 + 0.5) / 3
        ratio_std=math.sqrt(1.75 - (3.5 / 3) ** 2),  # (1 + 4 + 0.25) / 3 = 1.75
        ratio_max=2.0,
        gap_mean=2 * LN2 / 3,  # (0 + ln 2 + ln 2) / 3
        gap_max=LN2,
    )
    assert asdict(figures(FIRST, SECOND)) == pytest.approx(asdict(expected), rel=1e-6)


def test_the_order_of_micro_batches_does_not_matter() -> None:
    assert asdict(figures(SECOND, FIRST)) == pytest.approx(asdict(figures(FIRST, SECOND)), rel=1e-12)


def test_empty_micro_batches_change_nothing() -> None:
    assert figures(EMPTY, FIRST, EMPTY, SECOND, EMPTY) == figures(FIRST, SECOND)


def test_an_iteration_without_tokens_has_figures_of_0() -> None:
    assert set(asdict(figures(EMPTY)).values()) == {0.0}


def test_without_a_reference_the_divergence_is_no_number() -> None:
    assert math.isnan(figures(FIRST, SECOND, has_reference=False).kl)


def test_without_a_critic_there_is_no_loss_of_one() -> None:
    assert figures(FIRST, SECOND, has_critic=False).value_loss is None


def test_ratios_that_are_all_alike_have_no_spread() -> None:
    alike = {name: of * 3 for name, of in SECOND.items()}
    assert figures(alike).ratio_std == pytest.approx(0.0, abs=1e-6)


def test_what_was_taken_is_not_counted_again() -> None:
    tally = Tally(has_reference=True, has_critic=True)
    add(tally, FIRST)
    tally.take(torch.device("cpu"), 1)
    add(tally, SECOND)
    assert tally.take(torch.device("cpu"), 1) == figures(SECOND)


def test_figures_have_no_gradient() -> None:
    logprobs = torch.tensor([-1.0], requires_grad=True)
    plain = torch.tensor([-1.0])
    tally = Tally(has_reference=False, has_critic=False)
    tally.add(loss=-logprobs, logprobs=logprobs, old=plain, sampler=plain, is_clipped=torch.tensor([False]))
    assert not tally._sums["loss"].requires_grad and not tally._sums["surprise"].requires_grad
