"""Losses of preferences, one number a pair or an answer; each function names its paper and equation.

Letters: P pairs, N answers. A log-ratio is log π(y|x) − log π_ref(y|x) of an answer, in nats.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

_LOG_HALF = -0.6931471805599453


def dpo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """−log σ(β (chosen − rejected)), [P], of log-ratios summed over each answer's tokens, [P] each.

    Rafailov et al. 2023, arXiv:2305.18290, equation 7. With `label_smoothing` ε it is cDPO: (1 − ε) times that, and ε
    times the loss of the pair turned round (Mitchell 2023, "A note on DPO with noisy preferences").
    """
    logits = beta * (chosen - rejected)
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def ipo_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """(chosen − rejected − 1 / 2β)², [P], of log-ratios that are means over each answer's tokens, [P] each.

    Azar et al. 2023, arXiv:2310.12036, equation 17, where β is called τ. The equation has sums over the tokens; means,
    as in TRL, which asked the authors, keep the squared distance from growing with the answers' length.
    """
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def kto_loss(
    logratios: torch.Tensor,
    is_good: torch.Tensor,
    kl: float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """λ (1 − σ(β (log-ratio − z₀))) of a good answer, λ (1 − σ(β (z₀ − log-ratio))) of a bad one, [N].

    Ethayarajh et al. 2024, arXiv:2402.01306, section 4. logratios: [N], summed over each answer's tokens. is_good: [N]
    bool. kl: z₀, in nats, which has no gradient.
    """
    sign = torch.where(is_good, 1.0, -1.0)
    weight = torch.where(is_good, desirable_weight, undesirable_weight)
    return weight * torch.sigmoid(-beta * sign * (logratios - kl))


def kto_kl(policy: torch.Tensor, reference: torch.Tensor) -> float:
    """z₀, KTO's estimate of how far the policy is from the reference: the mean log-ratio, in nats, no less than 0.

    Ethayarajh et al. 2024, section 4. policy, reference: [N] log-probabilities of answers to other prompts than
    their own, summed over each answer's tokens; 0 where there are none.
    """
    return max(0.0, float((policy - reference).double().mean())) if len(policy) else 0.0


def orpo_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """−log P(chosen) − β log σ(log odds(chosen) − log odds(rejected)), [P], where odds(y) = P(y) / (1 − P(y)).

    Hong et al. 2024, arXiv:2403.07691, equations 4 to 7, where β is called λ. chosen, rejected: log P, [P] each: means
    over each answer's tokens, below 0.
    """
    log_odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    return -chosen - beta * logsigmoid(log_odds)


def simpo_loss(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float, target_margin: float) -> torch.Tensor:
    """−log σ(β (chosen − rejected) − γ), [P]. chosen, rejected: log-probabilities, means over each answer's tokens.

    Meng et al. 2024, arXiv:2405.14734, equation 6, where the target margin is called γ.
    """
    return -logsigmoid(beta * (chosen - rejected) - target_margin)


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 − exp(x)) of x below 0, exact where x is close to 0 and where it is far (Mächler 2012)."""
    # An answer the model is certain of has x = 0 in float32; its odds shall be large, not infinite.
    x = x.clamp(max=-1e-7)
    # The branch that is not taken must not give NaN either: its gradient would be multiplied by 0.
    near, far = x.clamp(min=_LOG_HALF), x.clamp(max=_LOG_HALF)
    return torch.where(x > _LOG_HALF, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))
