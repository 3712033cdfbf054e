"""Losses of tokens by hand, and by their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from fettle.rl.policy_losses import clipped, clipped_value, over_answers, plain, truncated_importance


def ratios(*found: float) -> torch.Tensor:
    return torch.tensor(found).log().requires_grad_()


def test_the_clipped_loss_by_hand() -> None:
    # A = 2: −min(0.5·2, 0.8·2), −min(1.1·2, …), −min(1.5·2, 1.2·2).
    loss, is_clipped = clipped(ratios(0.5, 1.1, 1.5), torch.full((3,), 2.0), low=0.2, high=0.2)
    torch.testing.assert_close(loss, torch.tensor([-1.0, -2.2, -2.4]))
    assert is_clipped.tolist() == [False, False, True]


def test_the_clipped_loss_of_bad_tokens_by_hand() -> None:
    # A = −2: −min(0.5·−2, 0.8·−2) = 1.6, −(1.1·−2), −min(1.5·−2, 1.2·−2) = 3.
    loss, is_clipped = clipped(ratios(0.5, 1.1, 1.5), torch.full((3,), -2.0), low=0.2, high=0.2)
    torch.testing.assert_close(loss, torch.tensor([1.6, 2.2, 3.0]))
    assert is_clipped.tolist() == [True, False, False]


def test_clip_higher_leaves_good_tokens_more_room() -> None:
    loss, is_clipped = clipped(ratios(1.25, 1.4), torch.ones(2), low=0.2, high=0.28)
    torch.testing.assert_close(loss, torch.tensor([-1.25, -1.28]))
    assert is_clipped.tolist() == [False, True]


def test_the_dual_clip_ends_what_bad_tokens_can_cost() -> None:
    loss, is_clipped = clipped(ratios(2.0, 5.0, 5.0), torch.tensor([-1.0, -1.0, 1.0]), low=0.2, high=0.2, dual=3.0)
    torch.testing.assert_close(loss, torch.tensor([2.0, 3.0, -1.2]))
    assert is_clipped.tolist() == [False, True, True]


def test_no_gradient_comes_through_a_clip_and_the_ratio_times_the_advantage_through_the_others() -> None:
    log_ratio, advantages = ratios(0.5, 0.5, 1.1, 1.5, 5.0), torch.tensor([2.0, -2.0, -2.0, 2.0, -2.0])
    loss, is_clipped = clipped(log_ratio, advantages, low=0.2, high=0.2, dual=3.0)

    (gradient,) = torch.autograd.grad(loss.sum(), log_ratio)

    torch.testing.assert_close(gradient, torch.tensor([-1.0, 0.0, 2.2, 0.0, 0.0]))
    assert is_clipped.tolist() == [False, True, False, True, True]


def test_on_the_first_step_the_clipped_loss_has_reinforces_gradient() -> None:
    logprobs, advantages = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True), torch.tensor([1.0, -3.0, 0.0])
    ours = clipped(logprobs - logprobs.detach(), advantages, low=0.2, high=0.2).loss.sum()
    (gradient,) = torch.autograd.grad(ours, logprobs)
    (reinforce,) = torch.autograd.grad(plain(logprobs, advantages).loss.sum(), logprobs)
    torch.testing.assert_close(gradient, reinforce)


def test_a_ratio_beyond_all_numbers_stays_a_number() -> None:
    log_ratio = torch.tensor([500.0, 500.0, 500.0], requires_grad=True)
    loss = clipped(log_ratio, torch.tensor([1.0, -1.0, 0.0]), low=0.2, high=0.2).loss
    assert torch.isfinite(loss).all()
    assert torch.isfinite(torch.autograd.grad(loss.sum(), log_ratio)[0]).all()


def test_an_answers_ratio_is_the_geometric_mean_or_the_product_of_its_tokens() -> None:
    log_ratio, answers = ratios(2.0, 8.0, 3.0), torch.tensor([0, 0, 2])  # answer 1 bears no loss
    torch.testing.assert_close(over_answers(log_ratio, answers, mean=True).exp(), torch.tensor([4.0, 4.0, 3.0]))
    torch.testing.assert_close(over_answers(log_ratio, answers, mean=False).exp(), torch.tensor([16.0, 16.0, 3.0]))
    assert over_answers(log_ratio[:0], answers[:0], mean=True).shape == (0,)


def test_every_token_moves_its_answers_ratio() -> None:
    # Zheng et al. 2025, equation 10: ∇ s = s · mean of the tokens' ∇ log π.
    log_ratio, answers = ratios(2.0, 8.0, 3.0), torch.tensor([0, 0, 1])
    (gradient,) = torch.autograd.grad(over_answers(log_ratio, answers, mean=True).exp()[0], log_ratio)
    torch.testing.assert_close(gradient, torch.tensor([2.0, 2.0, 0.0]))


def test_the_plain_loss_is_cross_entropy_where_the_advantage_is_1() -> None:
    loss, is_clipped = plain(torch.tensor([-0.5, -2.0]), torch.ones(2))
    assert (loss.tolist(), is_clipped.any().item()) == ([0.5, 2.0], False)


def test_the_value_loss_by_hand() -> None:
    # Old 1, clip 0.5; returns 3. Values 2 → 1.5: ½ max(1, 2.25). Values 0 → 0.5: ½ max(9, 6.25). Value 1.2: ½ 3.24.
    told = torch.tensor([2.0, 0.0, 1.2]), torch.ones(3), torch.full((3,), 3.0)
    loss, is_clipped = clipped_value(*told, clip=0.5)
    torch.testing.assert_close(loss, torch.tensor([1.125, 4.5, 1.62]))
    assert is_clipped.tolist() == [True, False, False]
    torch.testing.assert_close(clipped_value(*told, clip=None).loss, torch.tensor([0.5, 4.5, 1.62]))


def test_importance_weights_are_cut_at_their_cap_and_have_no_gradient() -> None:
    old = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    found = truncated_importance(old, torch.tensor([-1.0, -0.5, -5.0]), cap=2.0)
    torch.testing.assert_close(found, torch.tensor([1.0, math.exp(-0.5), 2.0]))
    assert not found.requires_grad


@pytest.mark.parametrize("dual", [None, 3.0])
def test_a_permutation_of_the_tokens_permutes_the_loss(dual: float | None) -> None:
    draw = torch.Generator().manual_seed(0)
    log_ratio, advantages = torch.randn(50, generator=draw), torch.randn(50, generator=draw)
    loss = clipped(log_ratio, advantages, low=0.1, high=0.3, dual=dual).loss
    flipped = clipped(log_ratio.flip(0), advantages.flip(0), low=0.1, high=0.3, dual=dual).loss
    torch.testing.assert_close(flipped.flip(0), loss)
