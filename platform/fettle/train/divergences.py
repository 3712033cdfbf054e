"""How far a student's next-token distributions are from its teacher's; each function names its paper and equation.

Letters: N tokens, V entries of the vocabulary. P is the teacher's distribution, Q the student's, both softmax(logits /
temperature); each divergence is multiplied by the temperature's square, so that its gradients keep their size (Hinton
et al. 2015, arXiv:1503.02531, section 2). Nats a token.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import kl_div, log_softmax


def forward_kl(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """T² KL(P ‖ Q), [N], of logits [N, V] float. Its gradient is that of Hinton et al. 2015, equation 2."""
    theirs, mine = log_softmax(teacher / temperature, -1), log_softmax(student / temperature, -1)
    return temperature**2 * kl_div(mine, theirs, reduction="none", log_target=True).sum(-1)


def reverse_kl(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """T² KL(Q ‖ P), [N], of logits [N, V] float.

    Gu et al. 2023 (MiniLLM), arXiv:2306.08543, equation 1, at each token of the data's answers instead of over answers
    that the student draws.
    """
    return forward_kl(student, teacher, temperature)


def jensen_shannon(
    teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0, beta: float = 0.5
) -> torch.Tensor:
    """T² (β KL(P ‖ M) + (1 - β) KL(Q ‖ M)), [N], where M = β P + (1 - β) Q, of logits [N, V] float.

    Agarwal et al. 2023 (GKD), arXiv:2306.13649, equation 1.
    """
    theirs, mine = log_softmax(teacher / temperature, -1), log_softmax(student / temperature, -1)
    mixture = torch.logaddexp(theirs + math.log(beta), mine + math.log(1 - beta))
    to_teacher = kl_div(mixture, theirs, reduction="none", log_target=True).sum(-1)
    to_student = kl_div(mixture, mine, reduction="none", log_target=True).sum(-1)
    return temperature**2 * (beta * to_teacher + (1 - beta) * to_student)
