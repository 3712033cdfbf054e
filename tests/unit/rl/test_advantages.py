"""Advantages: by hand, and against sums written out and TRL's formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trl.trainer.utils import nanstd

from fettle.rl.advantages import (
    best_of_n,
    gae,
    group_centred,
    group_normalised,
    leave_one_out,
    reinforce_pp,
    returns_to_go,
    whitened,
)

REWARDS = np.array([1.0, 0.0, 0.5, 2.0, -1.0, 0.25, 3.0, 3.0])
GROUPS = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def trls_grouped(rewards: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """grpo_trainer.py, 1.16, lines 2765-2787 (scale_rewards: group, then none) and rloo_trainer.py, 1682-1690."""
    told, num_generations = torch.from_numpy(rewards), 4
    mean = torch.nanmean(told.view(-1, num_generations), dim=1).repeat_interleave(num_generations, dim=0)
    std = nanstd(told.view(-1, num_generations), dim=1).repeat_interleave(num_generations, dim=0)
    grouped = told.view(-1, num_generations)
    baselines = (torch.nansum(grouped, dim=1, keepdim=True) - grouped) / (num_generations - 1)
    return (told - mean) / (std + 1e-4), told - mean, told - baselines.view(-1)


def gae_by_its_sum(rewards: np.ndarray, values: np.ndarray, gamma: float, lam: float) -> list[float]:
    """Σ_l (γλ)^l δ_{t+l}: Schulman et al. 2015, equation 16, term by term."""
    num = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < num else 0.0) - values[t] for t in range(num)]
    return [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, num)) for t in range(num)]


def test_grpos_advantage_by_hand() -> None:
    # Mean 2, std of 1, 2, 3 with n - 1: 1.
    found = group_normalised(np.array([1.0, 2.0, 3.0]), np.zeros(3))
    np.testing.assert_allclose(found, np.array([-1.0, 0.0, 1.0]) / 1.0001)


def test_dr_grpos_advantage_by_hand() -> None:
    np.testing.assert_allclose(
        group_centred(np.array([1.0, 0.0, 5.0, 7.0]), np.array([0, 0, 1, 1])), [0.5, -0.5, -1, 1]
    )


def test_rloos_advantage_by_hand() -> None:
    # 1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2
    np.testing.assert_allclose(leave_one_out(np.array([1.0, 2.0, 6.0]), np.zeros(3)), [-3.0, -1.5, 4.5])


def test_advantages_of_groups_are_trls() -> None:
    normalised, centred, left_out = trls_grouped(REWARDS)
    np.testing.assert_allclose(group_normalised(REWARDS, GROUPS), normalised, rtol=1e-6)
    np.testing.assert_allclose(group_centred(REWARDS, GROUPS), centred, rtol=1e-6)
    np.testing.assert_allclose(leave_one_out(REWARDS, GROUPS), left_out, rtol=1e-6)


@pytest.mark.parametrize("advantage", [group_normalised, group_centred, leave_one_out])
def test_answers_that_are_rewarded_alike_teach_nothing(advantage) -> None:
    # The mean of three 0.1 is 0.10000000000000002.
    assert advantage(np.array([0.1, 0.1, 0.1, 7.0, 7.0]), np.array([4, 4, 4, 9, 9])).tolist() == [0.0] * 5


@pytest.mark.parametrize("advantage", [group_normalised, group_centred, leave_one_out, best_of_n])
def test_the_order_of_the_answers_does_not_matter(advantage) -> None:
    rewards = np.array([1.0, 0.0, 0.5, 2.0, -1.0, 0.25, 4.0])
    groups, order = np.array([3, 3, 3, 5, 5, 5, 5]), np.random.default_rng(0).permutation(7)
    np.testing.assert_allclose(advantage(rewards[order], groups[order]), advantage(rewards, groups)[order])


def test_one_answer_alone_has_no_advantage_in_grpo() -> None:
    assert group_normalised(np.array([3.0]), np.array([0])).tolist() == [0.0]


def test_the_best_of_n_is_the_first_of_the_best() -> None:
    assert best_of_n(REWARDS, GROUPS).tolist() == [False, False, False, True, False, False, True, False]


def test_gae_by_hand() -> None:
    # δ = 0 + 0.5·2 − 1 = 0 and 4 − 2 = 2; A = 2, then 0 + 0.5·0.5·2.
    advantages, returns = gae(np.array([0.0, 4.0]), np.array([1.0, 2.0]), gamma=0.5, lam=0.5)
    assert (advantages.tolist(), returns.tolist()) == ([0.5, 2.0], [1.5, 4.0])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (1.0, 1.0)])
def test_gae_is_its_sum_term_by_term(gamma: float, lam: float) -> None:
    draw = np.random.default_rng(1)
    rewards, values = draw.normal(size=17), draw.normal(size=17)
    found, returns = gae(rewards, values, gamma=gamma, lam=lam)
    np.testing.assert_allclose(found, gae_by_its_sum(rewards, values, gamma, lam), rtol=1e-10)
    np.testing.assert_allclose(returns, found + values)


def test_gae_with_lambda_1_is_the_reward_to_come_less_the_value() -> None:
    rewards, values = np.array([1.0, -2.0, 5.0]), np.array([0.5, 3.0, 1.0])
    found, _ = gae(rewards, values, gamma=1.0, lam=1.0)
    np.testing.assert_allclose(found, [4.0 - 0.5, 3.0 - 3.0, 5.0 - 1.0])


def test_the_returns_to_go_by_hand() -> None:
    assert returns_to_go(np.array([1.0, 2.0, 4.0]), 0.5).tolist() == [3.0, 4.0, 4.0]


def test_answers_without_tokens_have_empty_advantages() -> None:
    empty = np.zeros(0)
    assert [len(one) for one in gae(empty, empty, gamma=1.0, lam=0.95)] == [0, 0]
    assert [len(one) for one in whitened([empty, np.array([1.0, 3.0])])] == [0, 2]


def test_whitened_numbers_have_mean_0_and_variance_1_over_all_parts() -> None:
    # Mean 2, variance 1 (dividing by n) of 1, 3, 3, 1.
    assert [one.tolist() for one in whitened([np.array([1.0, 3.0, 3.0]), np.array([1.0])])] == [[-1, 1, 1], [-1]]


def test_whitening_numbers_that_are_all_alike_gives_0() -> None:
    assert [one.tolist() for one in whitened([np.array([0.1, 0.1]), np.array([0.1])])] == [[0, 0], [0]]


def test_reinforce_pps_advantage_is_the_normalised_reward_to_come() -> None:
    # Returns 3, 2 and 1: mean 2, variance 2 / 3.
    found = reinforce_pp([np.array([1.0, 2.0]), np.array([1.0])], gamma=1.0)
    np.testing.assert_allclose(np.concatenate(found), np.array([1.0, 0.0, -1.0]) / np.sqrt(2 / 3))
