"""Divergences against torch's own, against sums by hand, and what they tend to."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from fettle.train.divergences import forward_kl, jensen_shannon, reverse_kl

GENERATOR = torch.Generator().manual_seed(0)
TEACHER, STUDENT = (3 * torch.randn(5, 11, generator=GENERATOR, dtype=torch.float64) for _ in range(2))


def as_logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_both_directions_are_torchs_own_times_the_square_of_the_temperature(temperature: float) -> None:
    teacher, student = (Categorical(logits=logits / temperature) for logits in (TEACHER, STUDENT))
    square = temperature**2

    torch.testing.assert_close(forward_kl(TEACHER, STUDENT, temperature), square * kl_divergence(teacher, student))
    torch.testing.assert_close(reverse_kl(TEACHER, STUDENT, temperature), square * kl_divergence(student, teacher))


def test_forward_kl_by_hand() -> None:
    # 3/4 log(3/4 : 1/2) + 1/4 log(1/4 : 1/2) = 3/4 log 3/2 - 1/4 log 2.
    found = forward_kl(as_logits(0.75, 0.25), as_logits(0.5, 0.5))
    assert found.tolist() == pytest.approx([0.75 * math.log(1.5) - 0.25 * math.log(2)])


def test_jensen_shannon_by_hand() -> None:
    # P = (1/2, 1/2), Q = (3/4, 1/4), β = 1/4: M = (11/16, 5/16).
    teacher_to_mixture = 0.5 * math.log(8 / 11) + 0.5 * math.log(8 / 5)
    student_to_mixture = 0.75 * math.log(12 / 11) + 0.25 * math.log(4 / 5)

    found = jensen_shannon(as_logits(0.5, 0.5), as_logits(0.75, 0.25), beta=0.25)

    assert found.tolist() == pytest.approx([0.25 * teacher_to_mixture + 0.75 * student_to_mixture])


def test_jensen_shannon_is_symmetric_at_one_half_and_no_more_than_log_2() -> None:
    one, other = jensen_shannon(TEACHER, STUDENT), jensen_shannon(STUDENT, TEACHER)

    torch.testing.assert_close(one, other)
    assert one.max() < math.log(2)


@pytest.mark.parametrize(("beta", "limit"), [(1e-6, forward_kl), (1 - 1e-6, reverse_kl)])
def test_jensen_shannon_tends_to_either_direction(beta: float, limit: object) -> None:
    # Agarwal et al. 2023, section 2: JSD(β) / β tends to the forward KL as β does to 0; likewise the other way round.
    found = jensen_shannon(TEACHER, STUDENT, beta=beta) / min(beta, 1 - beta)

    torch.testing.assert_close(found, limit(TEACHER, STUDENT), rtol=1e-3, atol=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl, jensen_shannon])
def test_of_equal_distributions_it_is_0_and_so_is_its_gradient(divergence: object) -> None:
    student = TEACHER.clone().requires_grad_()

    found = divergence(TEACHER, student, 2.0)  # type: ignore[operator]
    found.sum().backward()

    torch.testing.assert_close(found, torch.zeros_like(found))
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


def test_the_gradient_at_a_high_temperature_is_that_of_the_logits_squared_difference() -> None:
    # Hinton et al. 2015, equation 4: with logits of mean 0, T² times the gradient tends to (student - teacher) / V.
    student = (STUDENT - STUDENT.mean(-1, keepdim=True)).requires_grad_()
    teacher = TEACHER - TEACHER.mean(-1, keepdim=True)

    forward_kl(teacher, student, 1e4).sum().backward()

    torch.testing.assert_close(student.grad, (student - teacher).detach() / 11, rtol=1e-2, atol=1e-3)
