"""What each algorithm makes of a batch by hand: two prompts, ragged answers, a tool's tokens, a broken-off answer."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from by_hand import MASKS, MAX_NEW, NO_KL, REWARDS, laid_out, make, told

from fettle.recipe.algorithm import LEAST_SAMPLES, AlgorithmKind
from fettle.rl.algorithms import ALGORITHMS
from fettle.rl.rollout import Judged

KINDS = get_args(AlgorithmKind)


def mean_by_weights(learned: list[Judged], losses: list[float]) -> float:
    """Σ weights · loss / N, where every token of an answer has one loss."""
    total = sum(float(one.weights.sum()) * loss for one, loss in zip(learned, losses, strict=True))
    return total / sum(one.rollout.num_loss_tokens for one in learned)


def test_every_kind_of_the_recipe_is_there_once() -> None:
    assert sorted(one.kind for one in ALGORITHMS) == sorted(KINDS) == sorted(LEAST_SAMPLES)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda one: one.kind)
def test_every_algorithm_names_its_paper_and_when_to_use_it(algorithm) -> None:
    assert "arXiv:" in algorithm.__doc__ and "When: " in algorithm.__doc__


def test_only_ppo_wants_a_critic() -> None:
    assert [one.kind for one in ALGORITHMS if one.wants_critic] == ["ppo"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_environments_tokens_bear_nothing(stage, batch, kind) -> None:
    kl = {"coef": 0.1} if kind == "online_dpo" else {"coef": 0.1, "in": "reward"}
    learned = make(stage, kind, kl=kl).judge(batch, 0.1)
    for one in learned:
        outside = ~one.rollout.mask
        assert not one.advantages[outside].any() and not one.weights[outside].any()
        assert one.advantages.dtype == one.weights.dtype == np.float32
        assert len(one.advantages) == len(one.weights) == len(one.rollout.output_ids)


def test_grpo_by_hand(stage, batch) -> None:
    learned = make(stage, "grpo").judge(batch, 0.0)
    # Of 1 and 3: −1, 1 over √2; of 0 and 4: −2, 2 over √8.
    small, large = 1 / (2**0.5 + 1e-4), 2 / (8**0.5 + 1e-4)
    assert told(learned) == [[round(value, 5) for value in one] for one in laid_out([-small, small, -large, large])]
    # N = 10, M = 4: 10 / (4 · T).
    assert told(learned, "weights") == [
        [round(value, 5) for value in one] for one in laid_out([1.25, 10 / 12, 2.5, 0.625])
    ]


def test_dr_grpo_by_hand(stage, batch) -> None:
    learned = make(stage, "dr_grpo").judge(batch, 0.0)
    assert told(learned) == laid_out([-1.0, 1.0, -2.0, 2.0])
    assert told(learned, "weights") == laid_out([10 / (4 * MAX_NEW)] * 4)


def test_rloo_by_hand(stage, batch) -> None:
    learned = make(stage, "rloo").judge(batch, 0.0)
    assert told(learned) == laid_out([-2.0, 2.0, -4.0, 4.0])
    assert told(learned, "weights") == laid_out([2.5] * 4)


def test_reinforce_pp_by_hand(stage, batch) -> None:
    learned = make(stage, "reinforce_pp").judge(batch, 0.0)
    # Without discount each token's return is its answer's reward: 1, 1, 3, 3, 3, 0, 4, 4, 4, 4.
    mean, std = 2.7, np.std([1, 1, 3, 3, 3, 0, 4, 4, 4, 4])
    assert told(learned) == [[round(x, 5) for x in one] for one in laid_out([(r - mean) / std for r in REWARDS])]
    assert told(learned, "weights") == laid_out([1.0] * 4)


def test_reinforce_pp_takes_the_divergence_to_come_off_each_token(stage, batch) -> None:
    learned = make(stage, {"kind": "reinforce_pp", "gamma": 1.0}, kl={"coef": 0.2, "in": "reward"}).judge(batch, 0.2)
    # 0.2 · 0.5 = 0.1 a token: the returns of the first answer are 1 − 0.2 and 1 − 0.1.
    returns = [0.8, 0.9, 2.7, 2.8, 2.9, -0.1, 3.6, 3.7, 3.8, 3.9]
    expected = (np.array(returns) - np.mean(returns)) / np.std(returns)
    np.testing.assert_allclose(
        np.concatenate([one.advantages[one.rollout.mask] for one in learned]), expected, rtol=1e-5
    )


def test_reinforce_pp_with_baseline_by_hand(stage, batch) -> None:
    easy = [replace(one, reward=one.reward + 10 * one.rollout.prompt) for one in batch]  # the second prompt's
    learned = make(stage, "reinforce_pp_baseline").judge(easy, 0.0)
    # Less their means: −1, 1, −2, 2, of 2, 3, 1 and 4 tokens: mean 0.7.
    tokens = np.repeat([-1.0, 1.0, -2.0, 2.0], [2, 3, 1, 4])
    expected = [(r - tokens.mean()) / tokens.std() for r in (-1.0, 1.0, -2.0, 2.0)]
    assert told(learned) == [[round(x, 5) for x in one] for one in laid_out(expected)]


def test_raft_learns_the_best_answer_to_each_prompt(stage, batch) -> None:
    algorithm = make(stage, "raft")
    learned = algorithm.judge(batch, 0.0)
    assert [(one.rollout.prompt, one.rollout.sample) for one in learned] == [(0, 1), (1, 1)]
    assert told(learned) == told(learned, "weights") == [[1, 0, 0, 1, 1], [1, 1, 1, 1]]
    logprobs = torch.tensor([-0.5, -2.0])
    loss = algorithm.policy_loss(logprobs, torch.zeros(2), torch.zeros(2), torch.ones(2), torch.tensor([0, 1])).loss
    assert loss.tolist() == [0.5, 2.0]


def test_raft_ranks_by_the_reward_less_the_divergence(stage, batch) -> None:
    # Off 1, 3, 0, 4 comes the weight times 0.5 · T: with 2 they are −1, 0, −1, 0; with 3 they are −2, −1.5, −1.5, −2.
    algorithm = make(stage, "raft", kl={"coef": 3.0})
    assert [one.rollout.sample for one in algorithm.judge(batch, 2.0)] == [1, 1]
    assert [one.rollout.sample for one in algorithm.judge(batch, 3.0)] == [1, 0]


def test_ppo_by_hand(stage, batch) -> None:
    algorithm = make(stage, {"kind": "ppo", "gae_lambda": 0.5, "whiten": False})
    learned = algorithm.judge(batch, 0.0)
    # Values 0.5 at the policy's own tokens, so δ is 0 but for the last token's: reward − 0.5; then halved backwards.
    # The tool's tokens, with their values of 99, are stepped over.
    assert told(learned) == [[0.25, 0.5], [0.625, 0, 0, 1.25, 2.5], [-0.5], [0.4375, 0.875, 1.75, 3.5]]
    assert told(learned, "returns") == [[0.75, 1.0], [1.125, 0, 0, 1.75, 3.0], [0.0], [0.9375, 1.375, 2.25, 4.0]]
    assert told(learned, "weights") == laid_out([1.0] * 4)


def test_ppo_whitens_advantages_and_not_returns(stage, batch) -> None:
    raw, learned = (make(stage, {"kind": "ppo", "whiten": whiten}).judge(batch, 0.0) for whiten in (False, True))
    flat = np.concatenate([one.advantages[one.rollout.mask] for one in learned])
    assert (flat.mean(), flat.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
    assert told(raw, "returns") == told(learned, "returns")


def test_ppo_takes_each_tokens_divergence_off_its_reward(stage, batch) -> None:
    algorithm = make(stage, {"kind": "ppo", "gae_lambda": 1.0, "whiten": False}, kl={"coef": 0.2})
    # λ = 1: what is to come less the value. Of the first answer 1 − 0.2 − 0.5, 1 − 0.1 − 0.5.
    assert told(algorithm.judge(batch, 0.2))[0] == [0.3, 0.4]
    assert told(algorithm.judge(batch, 0.0))[0] == [0.5, 0.5]  # an adaptive weight's value now, not the recipe's


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_a_divergence_in_the_reward_is_that_of_the_whole_answer(stage, batch, judged, kind) -> None:
    # 0.5 a token: off the rewards 1, 3, 0, 4 come 0.2 · 0.5 · T = 0.2, 0.3, 0.1, 0.4.
    algorithm = make(stage, kind, kl={"coef": 0.2, "in": "reward"})
    less = [judged(i // 2, r, MASKS[i]) for i, r in enumerate((0.8, 2.7, -0.1, 3.6))]
    assert told(algorithm.judge(batch, 0.2)) == told(make(stage, kind).judge(less, 0.0))


def test_a_divergence_in_the_loss_leaves_rewards_alone(stage, batch) -> None:
    assert told(make(stage, "grpo", kl={"coef": 0.2}).judge(batch, 0.2)) == told(make(stage, "grpo").judge(batch, 0.0))


def test_the_learners_own_policy_is_compared_with_the_reference_where_it_is_known(stage, judged) -> None:
    algorithm = make(stage, "rloo", kl={"coef": 1.0})
    alike = [judged(0, 1.0, [1], reference=[-2.0], old=[-2.0]), judged(0, 1.0, [1], reference=[-2.0])]
    # k1 is 0 by the learner's own −2, and 1 by the sampler's −1.
    assert told(algorithm.judge(alike, 1.0)) == [[1.0], [-1.0]]


def test_a_broken_off_answer_may_bear_no_loss_and_still_be_compared_with(stage, batch) -> None:
    learned = make(stage, {"kind": "grpo", "truncated": "mask"}).judge(batch, 0.0)
    assert told(learned)[:3] == told(make(stage, "grpo").judge(batch, 0.0))[:3]
    assert [one.rollout.num_loss_tokens for one in learned] == [2, 3, 1, 0]
    # N = 6, M = 4: it still counts among the answers, as in TRL.
    assert told(learned, "weights") == [[0.75, 0.75], [0.5, 0, 0, 0.5, 0.5], [1.5], [0, 0, 0, 0]]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("raft", "online_dpo")])
def test_the_weights_give_the_papers_mean(stage, batch, kind) -> None:
    algorithm = make(stage, kind)
    losses, counts = [0.3, -1.0, 2.0, 0.7], np.array([2, 3, 1, 4])
    per_paper = {
        "tokens": (counts * losses).sum() / counts.sum(),
        "answers": np.mean(losses),
        "sums": (counts * losses).sum() / 4,
        "constant": np.mean(counts * losses / MAX_NEW),
    }[algorithm.average]
    assert mean_by_weights(algorithm.judge(batch, 0.0), losses) == pytest.approx(per_paper)


@pytest.mark.parametrize(
    ("algorithm", "average"),
    [
        ("ppo", "tokens"),
        ("grpo", "answers"),
        ({"kind": "grpo", "average": "tokens"}, "tokens"),
        ("dr_grpo", "constant"),
        ("rloo", "sums"),
        ({"kind": "rloo", "level": "sequence"}, "answers"),
        ("reinforce_pp", "tokens"),
        ("reinforce_pp_baseline", "tokens"),
        ("raft", "tokens"),
        ("online_dpo", "sums"),
    ],
)
def test_what_the_loss_of_each_is_a_mean_over(stage, algorithm, average) -> None:
    kl = {"coef": 0.1} if algorithm == "online_dpo" else NO_KL
    assert make(stage, algorithm, kl=kl).average == average


def test_the_weights_of_a_part_of_an_iteration_are_those_of_its_own_tokens(stage, batch) -> None:
    algorithm = make(stage, "grpo")
    half = algorithm.weigh(algorithm.judge(batch, 0.0)[:2])
    # N = 5, M = 2.
    assert told(half, "weights") == [[1.25, 1.25], [round(5 / 6, 5), 0, 0, round(5 / 6, 5), round(5 / 6, 5)]]
    assert mean_by_weights(half, [0.3, -1.0]) == pytest.approx(-0.35)


def test_where_the_policy_is_its_own_old_one_the_ratio_is_1_and_the_sampler_still_counts(stage) -> None:
    logprobs, sampler = torch.tensor([-1.0, -1.0], requires_grad=True), torch.tensor([-1.5, -4.0])
    loss = make(stage, "grpo").policy_loss(logprobs, None, sampler, torch.ones(2), torch.tensor([0, 0])).loss
    # −1 · min(e^0.5, 2), −1 · min(e^3, 2), and the gradient of log π times that.
    torch.testing.assert_close(loss, torch.tensor([-(np.e**0.5), -2.0], dtype=torch.float32))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), logprobs)[0], loss.detach())


def test_an_answer_as_a_whole_is_clipped_by_its_mean_in_grpo_and_by_its_product_in_rloo(stage) -> None:
    logprobs, old = torch.tensor([1.5, 1.5]).log(), torch.zeros(2)
    given = (logprobs, old, old, torch.ones(2), torch.tensor([0, 0]))
    clips = {"level": "sequence", "clip_high": 1.0}
    assert not make(stage, {"kind": "grpo"} | clips).policy_loss(*given).is_clipped.any()  # 1.5
    assert make(stage, {"kind": "rloo"} | clips).policy_loss(*given).is_clipped.all()  # 2.25


def test_the_critics_loss_is_clipped_as_the_recipe_says(stage) -> None:
    given = torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([3.0])
    assert make(stage, {"kind": "ppo", "value_clip": 0.5}).value_loss(*given).loss.item() == 1.125
    assert make(stage, {"kind": "ppo", "value_clip": None}).value_loss(*given).loss.item() == 0.5
