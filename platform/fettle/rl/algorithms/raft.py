"""RAFT: fine-tuning on the best of n answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fettle.rl.advantages import best_of_n
from fettle.rl.algorithms.algorithm import Algorithm
from fettle.rl.policy_losses import TokenLoss, plain
from fettle.rl.rollout import Judged, prompts_of


class Raft(Algorithm):
    """Reward-ranked fine-tuning: Dong et al. 2023, arXiv:2304.06767, algorithm 1 (LMFlow's; also called best-of-n).

    Of the answers to each prompt the best one is learned as in supervised fine-tuning, a mean over tokens, and the
    others are dropped: no ratio, no clip, nothing is made less likely. The divergence is taken off the reward before
    the answers are ranked (section 3.2), so `kl` acts through the choice alone, unless it is in the loss.

    When: as the first try, and where others fall apart. It only ever sharpens what the policy already says, slowly, and
    a prompt whose answers are all bad still teaches the least bad.
    """

    kind = "raft"

    def judge(self, batch: Sequence[Judged], kl_coef: float) -> list[Judged]:
        """The best answer to each prompt alone, with an advantage of 1."""
        is_best = best_of_n(self.answer_rewards(batch, kl_coef), prompts_of(batch))
        best = [one for one, is_kept in zip(batch, is_best, strict=True) if is_kept]
        return self.learned(best, list(np.ones(len(best))))

    def policy_loss(
        self,
        logprobs: torch.Tensor,
        old: torch.Tensor | None,
        sampler: torch.Tensor,
        advantages: torch.Tensor,
        answers: torch.Tensor,
    ) -> TokenLoss:
        """Cross-entropy, whoever said it: as in fine-tuning there is no old policy."""
        return plain(logprobs, advantages)
