"""PPO: a critic says what each token was worth."""

from __future__ import annotations

from collections.abc import Sequence

from fettle.rl.advantages import gae, whitened
from fettle.rl.algorithms.algorithm import Algorithm
from fettle.rl.rollout import Judged


class Ppo(Algorithm):
    """Proximal policy optimisation: Schulman et al. 2017, arXiv:1707.06347, section 3 (the clip) and 5 (with a critic);
    on language models Ziegler et al. 2019, arXiv:1909.08593, and Ouyang et al. 2022, arXiv:2203.02155, section 3.5.

    The only one with a critic, and so with an advantage for each token: the others give all of an answer's tokens one.
    Every token's reward is what the divergence costs it, and the last one's the answer's reward. The environment's
    tokens are no steps: the value after one of the policy's is that of its next one. A broken-off answer is taken as
    ended. The loss is a mean over tokens.

    When: rewards are noisy or come from a reward model, answers are long, one answer to a prompt is all there is. It
    costs a second model and is the hardest to get right.
    """

    kind = "ppo"
    wants_critic = True

    def judge(self, batch: Sequence[Judged], kl_coef: float) -> list[Judged]:
        """GAE over each answer, then whitened over all tokens; the returns are not whitened."""
        gamma, lam = self.spec.gamma, self.spec.gae_lambda
        assert gamma is not None and lam is not None
        rewards = self.token_rewards(batch, self.plain_rewards(batch), kl_coef)
        advantages, returns = [], []
        for one, tokens in zip(batch, rewards, strict=True):
            assert one.values is not None
            advantage, to_come = gae(tokens, one.values[one.rollout.mask], gamma=gamma, lam=lam)
            advantages.append(advantage)
            returns.append(to_come)
        return self.learned(batch, whitened(advantages) if self.spec.whiten else advantages, returns)
