"""GRPO: an answer is as good as it is better than the other answers to its prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fettle.rl.advantages import group_normalised
from fettle.rl.algorithms.algorithm import Algorithm
from fettle.rl.policy_losses import over_answers
from fettle.rl.rollout import Judged, prompts_of
from fettle.rl.weights import Average


class Grpo(Algorithm):
    """Group relative policy optimisation: Shao et al. 2024, arXiv:2402.03300, equations 3 and 4, section 4.1.2.

    No critic: the mean reward of a prompt's answers is what was expected, and their standard deviation the unit. Dr.
    GRPO leaves out that unit and the length; RLOO the unit and the answer itself; REINFORCE++ takes the unit over all
    prompts. The loss is a mean over answers of means over their tokens; `average: tokens` is DAPO's (Yu et al. 2025,
    arXiv:2503.14476, equation 8), `level: sequence` GSPO (Zheng et al. 2025, arXiv:2507.18071, equation 5), one ratio
    an answer. The divergence is in the loss (k3, equation 4), not in the rewards.

    When: answers can be checked (mathematics, code, formats). A prompt whose answers are all right or all wrong teaches
    nothing; one that is almost always right teaches as much as any, since its unit is small.
    """

    kind = "grpo"

    @property
    def average(self) -> Average:
        """As the recipe says."""
        assert self.spec.average is not None
        return self.spec.average

    def judge(self, batch: Sequence[Judged], kl_coef: float) -> list[Judged]:
        """Each answer's distance from its group's mean, in standard deviations."""
        return self.learned(batch, list(group_normalised(self.answer_rewards(batch, kl_coef), prompts_of(batch))))

    def log_ratio(self, log_ratio: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """Each token's own, or its answer's mean."""
        return log_ratio if self.spec.level == "token" else over_answers(log_ratio, answers, mean=True)
