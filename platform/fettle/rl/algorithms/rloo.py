"""RLOO: an answer is compared with the other answers to its prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fettle.rl.advantages import leave_one_out
from fettle.rl.algorithms.algorithm import Algorithm
from fettle.rl.policy_losses import over_answers
from fettle.rl.rollout import Judged, prompts_of
from fettle.rl.weights import Average


class Rloo(Algorithm):
    """REINFORCE leave-one-out: Ahmadian et al. 2024, arXiv:2402.14740, section 3.3 (Kool et al. 2019).

    The whole answer is one action, whose log-probability is the sum of its tokens'. What was expected is the mean
    reward of the *other* answers, which leaves the gradient unbiased (GRPO's mean has the answer in it); no division by
    a standard deviation. The divergence, over the whole answer, is taken off the reward. The paper takes one step from
    each iteration and needs no clip; where there are several, tokens are clipped one by one, or, `level: sequence`,
    the answer as a whole, as in TRL. On the first step both have REINFORCE's gradient.

    When: a reward model, no critic, a few answers to each prompt: simple and hard to break. With several steps an
    iteration the product over a long answer soon leaves the clip: keep `level: token`.
    """

    kind = "rloo"

    @property
    def average(self) -> Average:
        """A sum over each answer's tokens; an answer's one ratio, which each of its tokens bears, counts once."""
        return "sums" if self.spec.level == "token" else "answers"

    def judge(self, batch: Sequence[Judged], kl_coef: float) -> list[Judged]:
        """Each answer's distance from the mean of the others to its prompt."""
        return self.learned(batch, list(leave_one_out(self.answer_rewards(batch, kl_coef), prompts_of(batch))))

    def log_ratio(self, log_ratio: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """Each token's own, or its answer's sum."""
        return log_ratio if self.spec.level == "token" else over_answers(log_ratio, answers, mean=False)
