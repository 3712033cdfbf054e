"""REINFORCE++: advantages normalised over all tokens of an iteration; with and without a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fettle.recipe.algorithm import AlgorithmKind
from fettle.rl.advantages import group_centred, reinforce_pp
from fettle.rl.algorithms.algorithm import Algorithm
from fettle.rl.rollout import Judged, prompts_of


class ReinforcePp(Algorithm):
    """REINFORCE++: Hu et al. 2025, arXiv:2501.03262.

    PPO without a critic: a token's advantage is all reward that is still to come, the divergence's (k1, in the reward)
    and the answer's own, normalised over all tokens of the iteration. GRPO and RLOO compare answers to one prompt, and
    need several; this one compares all answers, and one to a prompt is enough. The loss is a mean over tokens.

    When: many prompts, one or few answers to each, rewards on one scale for all prompts.
    """

    kind: ClassVar[AlgorithmKind] = "reinforce_pp"

    def judge(self, batch: Sequence[Judged], kl_coef: float) -> list[Judged]:
        """The reward to come, over the iteration's mean, in its standard deviations."""
        assert self.spec.gamma is not None
        rewards = self.token_rewards(batch, self.baselined(batch), kl_coef)
        return self.learned(batch, reinforce_pp(rewards, gamma=self.spec.gamma))

    def baselined(self, batch: Sequence[Judged]) -> np.ndarray:
        """The answers' rewards, [N]."""
        return self.plain_rewards(batch)


class ReinforcePpBaseline(ReinforcePp):
    """REINFORCE++ with baseline: Hu et al. 2025, arXiv:2501.03262, the variant for several answers to a prompt.

    As REINFORCE++, with the mean reward of a prompt's answers taken off first; as GRPO, with one unit for all prompts,
    so that one whose answers hardly differ does not count for more. The divergence is in the loss (k2).

    When: as GRPO, on prompts of very different difficulty, or with tools over several turns.
    """

    kind = "reinforce_pp_baseline"

    def baselined(self, batch: Sequence[Judged]) -> np.ndarray:
        """The answers' rewards less the mean of their prompt's, [N]."""
        return group_centred(self.plain_rewards(batch), prompts_of(batch))
