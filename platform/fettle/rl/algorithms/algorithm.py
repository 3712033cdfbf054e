"""What every algorithm is: rewards into advantages, and the loss it wants of them. The trainer knows none by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch

from fettle.recipe.algorithm import LEAST_SAMPLES, AlgorithmKind, AlgorithmSpec, KlSpec
from fettle.rl.kl import estimate
from fettle.rl.policy_losses import TokenLoss, clipped, clipped_value, truncated_importance
from fettle.rl.rollout import Judged
from fettle.rl.weights import Average, weighted


class Algorithm:
    """spec, kl: of the recipe, of which `kl.coef` is told at each `judge`. max_new_tokens: of an answer."""

    kind: ClassVar[AlgorithmKind]
    wants_critic: ClassVar[bool] = False

    def __init__(self, spec: AlgorithmSpec, kl: KlSpec, *, max_new_tokens: int) -> None:
        self.spec, self.kl, self.max_new_tokens = spec, kl, max_new_tokens

    @property
    def average(self) -> Average:
        """What the loss is a mean over: see weights.py."""
        return "tokens"

    @property
    def least_samples(self) -> int:
        """Answers to each prompt that it needs."""
        return LEAST_SAMPLES[self.kind]

    def judge(self, batch: Sequence[Judged], kl_coef: float) -> list[Judged]:
        """What is learned from an iteration's rollouts, with advantages, weights and (for a critic) returns; all of an
        iteration together, since answers are compared. kl_coef: the divergence's weight now.

        Of the rollouts it wants `reference` where the divergence is taken off the rewards, `values` where it has a
        critic. The weights are right for a step that learns from all of it; of a part of it see `weigh`.
        """
        raise NotImplementedError

    def weigh(self, step: Sequence[Judged]) -> list[Judged]:
        """The rollouts of one optimizer step with their weights in it."""
        return weighted(step, self.average, self.max_new_tokens)

    def policy_loss(
        self,
        logprobs: torch.Tensor,
        old: torch.Tensor | None,
        sampler: torch.Tensor,
        advantages: torch.Tensor,
        answers: torch.Tensor,
    ) -> TokenLoss:
        """The loss of each loss-bearing token of a micro-batch, [L], before its weight.

        logprobs: of the policy now, with a gradient. old: before the iteration's first step; None where this is it, so
        that the policy is its own old one. sampler: as sampled. answers: int64 [L], which answer each token is of.
        """
        old = logprobs.detach() if old is None else old
        spec = self.spec
        assert spec.clip_low is not None and spec.clip_high is not None
        ratio = self.log_ratio(logprobs - old, answers)
        found = clipped(ratio, advantages, low=spec.clip_low, high=spec.clip_high, dual=spec.dual_clip)
        if spec.importance_cap is None:
            return found
        return found._replace(loss=found.loss * truncated_importance(old, sampler, cap=spec.importance_cap))

    def log_ratio(self, log_ratio: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """What the clip looks at, [L]: here each token's own log-ratio."""
        return log_ratio

    def value_loss(self, values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor) -> TokenLoss:
        """The critic's loss of each token, [L], before `value_coef`."""
        return clipped_value(values, old, returns, clip=self.spec.value_clip)

    @staticmethod
    def plain_rewards(batch: Sequence[Judged]) -> np.ndarray:
        """Each answer's reward as it is, float64 [N]."""
        return np.array([one.reward for one in batch], dtype=np.float64)

    def answer_rewards(self, batch: Sequence[Judged], kl_coef: float) -> np.ndarray:
        """Each answer's reward, float64 [N], less the divergence over its tokens where rewards bear it."""
        return np.array([one.reward - self._penalty(one, kl_coef).sum() for one in batch], dtype=np.float64)

    def token_rewards(self, batch: Sequence[Judged], rewards: np.ndarray, kl_coef: float) -> list[np.ndarray]:
        """The reward of each loss-bearing token: less the divergence where rewards bear it, and of the last one the
        answer's. rewards: [N]."""
        found = []
        for one, reward in zip(batch, rewards, strict=True):
            tokens = -self._penalty(one, kl_coef)
            tokens[-1:] += reward
            found.append(tokens)
        return found

    def learned(
        self,
        batch: Sequence[Judged],
        advantages: Sequence[np.ndarray | float],
        returns: Sequence[np.ndarray] | None = None,
    ) -> list[Judged]:
        """The rollouts with their advantages and returns, of loss-bearing tokens or (a scalar each) of all of an
        answer's, and with weights; broken-off ones bear no loss where the recipe says so."""
        found = []
        for number, one in enumerate(batch):
            told = replace(one, advantages=_laid_out(one, advantages[number]))
            if returns is not None:
                told = replace(told, returns=_laid_out(one, returns[number]))
            if self._is_masked(one):
                told = replace(told, rollout=replace(one.rollout, mask=np.zeros_like(one.rollout.mask)))
            found.append(told)
        return self.weigh(found)

    def _is_masked(self, one: Judged) -> bool:
        """Whether an answer bears no loss, since it was broken off."""
        return self.spec.truncated == "mask" and one.rollout.finish == "length"

    def _penalty(self, one: Judged, kl_coef: float) -> np.ndarray:
        """What the divergence costs each loss-bearing token, float64."""
        mask = one.rollout.mask
        if self.kl.in_ != "reward":
            return np.zeros(one.rollout.num_loss_tokens)
        assert one.reference is not None and self.kl.estimator is not None
        policy, reference = (torch.from_numpy(of[mask].astype(np.float64)) for of in (one.policy, one.reference))
        return kl_coef * estimate(self.kl.estimator, policy, reference).numpy()


def _laid_out(one: Judged, found: np.ndarray | float) -> np.ndarray:
    """float32 [T], 0 where the mask is False."""
    laid = np.zeros(len(one.rollout.mask), dtype=np.float32)
    laid[one.rollout.mask] = found
    return laid
