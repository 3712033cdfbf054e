"""Dr. GRPO: GRPO without its two biases."""

from __future__ import annotations

from collections.abc import Sequence

from fettle.rl.advantages import group_centred
from fettle.rl.algorithms.algorithm import Algorithm
from fettle.rl.rollout import Judged, prompts_of
from fettle.rl.weights import Average


class DrGrpo(Algorithm):
    """GRPO done right: Liu et al. 2025, arXiv:2503.20783, section 3.

    GRPO's division by the standard deviation makes too easy and too hard prompts count for more, its division by each
    answer's length makes long wrong answers cheap. Neither is done here: the loss is a mean over answers of sums over
    their tokens, over a constant, `max_new_tokens` (TRL's too). The paper has no divergence: `kl: {coef: 0}`.

    When: as GRPO, where answers grow longer without growing better.
    """

    kind = "dr_grpo"

    @property
    def average(self) -> Average:
        """A sum over each answer's tokens, over a constant."""
        return "constant"

    def judge(self, batch: Sequence[Judged], kl_coef: float) -> list[Judged]:
        """Each answer's distance from its group's mean."""
        return self.learned(batch, list(group_centred(self.answer_rewards(batch, kl_coef), prompts_of(batch))))
