"""How far the policy is from its reference, and how strongly it is held there.

Letters: L tokens, drawn from the policy. The divergence is KL(policy ‖ reference), in nats.
"""

from __future__ import annotations

import torch

from fettle.recipe.algorithm import Estimator, KlSpec

_GAIN, _MOST_ERROR = 0.1, 0.2  # Ziegler et al. 2019, section 2.2


def estimate(kind: Estimator, logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """An estimate of the divergence from each token, [L] nats (Schulman 2020, "Approximating KL divergence").

    k1: log π − log π_ref: unbiased, of large variance, negative for half the tokens. k2: half its square: biased, low
    variance. k3: π_ref / π − 1 − log(π_ref / π): unbiased, never negative, rarely huge.

    As a loss they are others than as a number (Tang & Munos 2025, arXiv:2506.09477): on average the gradient of k1 is
    0, that of k2 is the divergence's own, that of k3 is that of KL(reference ‖ policy).
    """
    difference = reference - logprobs
    if kind == "k1":
        return -difference
    if kind == "k2":
        return difference**2 / 2
    return torch.expm1(difference) - difference


class FixedKl:
    """The divergence's weight, `coef`, which stays as it is."""

    def __init__(self, coef: float) -> None:
        self.coef = coef

    def update(self, kl: float) -> None:
        """Nothing."""

    def state(self) -> dict[str, float]:
        """What a resumed run needs."""
        return {"coef": self.coef}

    def restore(self, state: dict[str, float]) -> None:
        """Goes on from `state`."""
        self.coef = state["coef"]


class AdaptiveKl(FixedKl):
    """A weight that is steered so that the divergence comes to `target`, in nats an answer.

    coef ← coef (1 + 0.1 clip(KL / target − 1, −0.2, 0.2)): Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
    """

    def __init__(self, coef: float, target: float) -> None:
        super().__init__(coef)
        self.target = target

    def update(self, kl: float) -> None:
        """After each iteration. kl: its mean over the iteration's answers, summed over each one's tokens, in nats."""
        error = min(max(kl / self.target - 1, -_MOST_ERROR), _MOST_ERROR)
        self.coef *= 1 + _GAIN * error


def kl_weight(spec: KlSpec) -> FixedKl:
    """The weight that a recipe asks for, at its beginning."""
    return FixedKl(spec.coef) if spec.target is None else AdaptiveKl(spec.coef, spec.target)
