"""Losses of tokens, from log-probabilities in nats; each function names its paper and equation. Pure functions.

Letters: L loss-bearing tokens of a micro-batch, one answer after the other. Only the log-probabilities and values of
the policy and critic under way have a gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

_MOST_LOG_RATIO = 20.0  # float32 ends at 88, and a product over an answer's tokens gets there


class TokenLoss(NamedTuple):
    """loss: [L]. is_clipped: bool [L], where the clip stops the gradient; its mean is the clip fraction."""

    loss: torch.Tensor
    is_clipped: torch.Tensor


def clipped(
    log_ratio: torch.Tensor, advantages: torch.Tensor, *, low: float, high: float, dual: float | None = None
) -> TokenLoss:
    """−min(ρ A, clip(ρ, 1 − low, 1 + high) A), ρ the ratio of the policy's probability to the old policy's.

    Schulman et al. 2017, arXiv:1707.06347, equation 7; a `high` above `low` is DAPO's clip-higher (Yu et al. 2025,
    arXiv:2503.14476, section 3.1). dual: where A < 0, no more than −dual · A (Ye et al. 2020, arXiv:1912.09729,
    equation 5). log_ratio: [L], log ρ. advantages: [L].
    """
    ratio = log_ratio.clamp(max=_MOST_LOG_RATIO).exp()
    loss = -torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    is_clipped = ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))
    if dual is not None:
        is_over = (ratio > dual) & (advantages < 0)
        loss, is_clipped = torch.where(is_over, -dual * advantages, loss), is_clipped | is_over
    return TokenLoss(loss, is_clipped.detach())


def over_answers(log_ratio: torch.Tensor, answers: torch.Tensor, *, mean: bool) -> torch.Tensor:
    """Each token with the log-ratio of its answer as a whole, [L]: the sum over its tokens, or their mean.

    mean: the geometric mean of the ratios (GSPO: Zheng et al. 2025, arXiv:2507.18071, equation 7); else their product,
    the ratio of the answers' own probabilities. log_ratio: [L]. answers: int64 [L], which answer each token is of.
    """
    if not len(answers):
        return log_ratio
    zeros = log_ratio.new_zeros(int(answers.max()) + 1)
    sums = zeros.index_add(0, answers, log_ratio)
    if mean:
        sums = sums / zeros.index_add(0, answers, torch.ones_like(log_ratio)).clamp(min=1)
    return sums[answers]


def plain(logprobs: torch.Tensor, advantages: torch.Tensor) -> TokenLoss:
    """−A log π, [L]: REINFORCE (Williams 1992); with an advantage of 1, fine-tuning on the answers."""
    return TokenLoss(-advantages * logprobs, torch.zeros_like(logprobs, dtype=torch.bool))


def clipped_value(values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, *, clip: float | None) -> TokenLoss:
    """½ max((V − R)², (clip(V, V_old − clip, V_old + clip) − R)²), [L]; without a clip ½ (V − R)².

    From Schulman's PPO code (Engstrom et al. 2020, arXiv:2005.12729, section 3). values: the critic's now. old: before
    the iteration's first step. returns: what they shall be.
    """
    free = (values - returns) ** 2
    if clip is None:
        return TokenLoss(free / 2, torch.zeros_like(values, dtype=torch.bool))
    held = (values.clamp(old - clip, old + clip) - returns) ** 2
    return TokenLoss(torch.max(free, held) / 2, (held > free).detach())


def truncated_importance(old: torch.Tensor, sampler: torch.Tensor, *, cap: float) -> torch.Tensor:
    """min(π_old / π_sampler, cap), [L], without a gradient: what a token's loss is multiplied by, as it was drawn by a
    sampler that is not quite the policy (another program, or older weights).

    Ionides 2008; Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".
    """
    return (old.detach() - sampler).exp().clamp(max=cap)
