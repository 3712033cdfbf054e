"""Online DPO: the best answer to a prompt is preferred to the worst."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fettle.rl.advantages import best_and_worst
from fettle.rl.algorithms.algorithm import Algorithm
from fettle.rl.rollout import Judged, prompts_of
from fettle.rl.weights import Average


class OnlineDpo(Algorithm):
    """Direct preference optimisation on the policy's own answers: Guo et al. 2024, arXiv:2402.04792, algorithm 1; the
    loss is DPO's (Rafailov et al. 2023, arXiv:2305.18290, equation 7), −log σ(m), m = β (Δ_best − Δ_worst), Δ an
    answer's log π − log π_ref.

    Of more than two answers the best and the worst make the pair, and the others are dropped; answers that are rewarded
    alike prefer nothing. β is `kl.coef`. The gradient of a pair's loss is −β σ(−m) ∇(log π_best − log π_worst), so that
    an answer's advantage is ±β σ(−m), a number known when the iteration begins. With one step an iteration, the
    default, and answers of the policy itself that is DPO exactly; where there are several steps, or older answers, m is
    that of the sampler's policy, and clip and importance weight hold each token. Masked answers make no pair.

    When: rewards rank answers well and their size means little (a reward model, judges that disagree on the scale).
    It learns from two answers to a prompt, whatever they cost to sample.
    """

    kind = "online_dpo"

    @property
    def average(self) -> Average:
        """A sum over each answer's tokens; `judge` makes it a mean over pairs."""
        return "sums"

    def judge(self, batch: Sequence[Judged], kl_coef: float) -> list[Judged]:
        """The best and the worst answer to each prompt, by how little the policy prefers the one yet."""
        pairs = best_and_worst(self.plain_rewards(batch), prompts_of(batch))
        kept, advantages = [], []
        for best, worst in pairs:
            margin = kl_coef * (_moved(batch[best]) - _moved(batch[worst]))
            is_whole = not any(self._is_masked(batch[place]) for place in (best, worst))
            prefers = float(is_whole and batch[best].reward > batch[worst].reward)
            # A mean over answers is half of one over pairs.
            weight = 2 * prefers * kl_coef / (1 + np.exp(margin))
            kept += [batch[best], batch[worst]]
            advantages += [weight, -weight]
        return self.learned(kept, advantages)


def _moved(one: Judged) -> float:
    """log π − log π_ref of an answer, in nats."""
    assert one.reference is not None
    mask = one.rollout.mask
    return float((one.policy[mask].astype(np.float64) - one.reference[mask]).sum())
