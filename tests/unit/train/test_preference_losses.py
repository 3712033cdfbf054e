"""The losses of preferences: by hand, against TRL's own functions, and by their gradients."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from fettle.train.losses import dpo_loss, ipo_loss, kto_kl, kto_loss, orpo_loss, simpo_loss

CHOSEN = torch.tensor([-0.3, 1.5, -2.0, 0.0])
REJECTED = torch.tensor([-0.7, 2.5, -9.0, 0.0])
MEANS = torch.tensor([-0.2, -1.5, -1e-4, -6.0])
WORSE_MEANS = torch.tensor([-0.9, -0.4, -8.0, -1e-3])


def trls(kind: Any, **settings: Any) -> Any:
    """A trainer of TRL with just what its loss function reads."""
    trainer = object.__new__(kind)
    trainer.__dict__.update(accelerator=SimpleNamespace(device="cpu"), alpha=0.0, label_smoothing=0.0, **settings)
    return trainer


def test_dpo_loss_is_log_two_when_policy_equals_reference() -> None:
    assert dpo_loss(torch.zeros(1), torch.zeros(1), beta=0.3).item() == pytest.approx(math.log(2))


def test_dpo_loss_of_one_pair_by_hand() -> None:
    # 0.5 · (2 − 0) = 1; −log σ(1) = log(1 + e⁻¹)
    assert dpo_loss(torch.tensor([2.0]), torch.zeros(1), beta=0.5).item() == pytest.approx(math.log1p(math.exp(-1)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_dpo_and_cdpo_losses_are_trls(smoothing: float) -> None:
    trainer = trls(CPOTrainer, beta=0.4, loss_type="sigmoid") if not smoothing else trls(CPOTrainer, beta=0.4)
    trainer.loss_type, trainer.label_smoothing = "sigmoid", smoothing

    # CPO's sigmoid loss is DPO's with log-probabilities where DPO has log-ratios.
    theirs = trainer.cpo_loss(CHOSEN, REJECTED)[0]

    torch.testing.assert_close(dpo_loss(CHOSEN, REJECTED, beta=0.4, label_smoothing=smoothing), theirs)


def test_the_gradient_of_dpo_is_beta_times_how_wrong_the_rewards_are() -> None:
    # Rafailov et al. 2023, section 4: −β σ(r(rejected) − r(chosen)) for the chosen answer, the opposite for the other.
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()

    dpo_loss(chosen, rejected, beta=0.4).sum().backward()

    wrong = 0.4 * torch.sigmoid(0.4 * (REJECTED - CHOSEN))
    assert chosen.grad is not None and rejected.grad is not None
    torch.testing.assert_close(chosen.grad, -wrong)
    torch.testing.assert_close(rejected.grad, wrong)


def test_cdpo_is_lowest_where_the_policy_is_as_sure_as_the_labels() -> None:
    # σ(β Δ) = 1 − ε: with ε = 0.2 and β = 1 at Δ = log 4.
    delta = torch.tensor([math.log(4)], requires_grad=True)

    dpo_loss(delta, torch.zeros(1), beta=1.0, label_smoothing=0.2).sum().backward()

    assert delta.grad is not None
    assert delta.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_ipo_loss_is_trls() -> None:
    trainer = trls(CPOTrainer, beta=0.4, loss_type="ipo")

    torch.testing.assert_close(ipo_loss(CHOSEN, REJECTED, beta=0.4), trainer.cpo_loss(CHOSEN, REJECTED)[0])


def test_ipo_loss_is_zero_at_its_distance_and_nowhere_else() -> None:
    # 1 / (2 · 0.25) = 2
    found = ipo_loss(torch.tensor([2.0, 5.0]), torch.tensor([0.0, 0.0]), beta=0.25)

    assert found.tolist() == [0.0, 9.0]


def test_kto_loss_of_a_good_and_a_bad_answer_by_hand() -> None:
    found = kto_loss(
        torch.tensor([3.0, 3.0]),
        torch.tensor([True, False]),
        1.0,
        beta=0.5,
        desirable_weight=2.0,
        undesirable_weight=4.0,
    )

    # 2 (1 − σ(0.5 · (3 − 1))) and 4 (1 − σ(0.5 · (1 − 3)))
    sigmoid_of_1 = 1 / (1 + math.exp(-1))
    assert found.tolist() == pytest.approx([2 * (1 - sigmoid_of_1), 4 * sigmoid_of_1])


def test_kto_loss_is_a_half_of_its_weight_where_the_log_ratio_is_the_kl() -> None:
    found = kto_loss(torch.tensor([0.7, 0.7]), torch.tensor([True, False]), 0.7, beta=0.1, undesirable_weight=3.0)

    assert found.tolist() == pytest.approx([0.5, 1.5])


def test_ktos_kl_is_the_mean_log_ratio_and_never_below_zero() -> None:
    policy, reference = torch.tensor([-3.0, -5.0]), torch.tensor([-6.0, -4.0])

    found = [kto_kl(policy, reference), kto_kl(reference, policy), kto_kl(torch.zeros(0), torch.zeros(0))]

    assert found == [1.0, 0.0, 0.0]


def test_the_odds_ratio_of_orpo_is_trls_and_the_chosen_answers_loss_comes_on_top() -> None:
    trainer = trls(ORPOTrainer, beta=0.3)

    theirs = -MEANS - trainer.odds_ratio_loss(MEANS, WORSE_MEANS)[0]

    torch.testing.assert_close(orpo_loss(MEANS, WORSE_MEANS, beta=0.3), theirs, rtol=1e-5, atol=1e-5)


def test_orpo_loss_of_answers_as_likely_as_not_by_hand() -> None:
    half = torch.tensor([math.log(0.5)])

    # Both odds are 1: −log 0.5 − β log σ(0) = (1 + β) log 2
    assert orpo_loss(half, half, beta=0.2).item() == pytest.approx(1.2 * math.log(2))


def test_orpo_stays_finite_for_answers_the_model_is_certain_of() -> None:
    certain = torch.tensor([0.0, -1e-9, -80.0], requires_grad=True)

    orpo_loss(certain, certain.flip(0), beta=0.1).sum().backward()

    assert certain.grad is not None
    assert torch.isfinite(certain.grad).all()


def test_simpo_loss_is_trls() -> None:
    trainer = trls(CPOTrainer, beta=2.0, loss_type="simpo", simpo_gamma=1.2)

    ours = simpo_loss(MEANS, WORSE_MEANS, beta=2.0, target_margin=1.2)

    torch.testing.assert_close(ours, trainer.cpo_loss(MEANS, WORSE_MEANS)[0])


def test_simpo_loss_is_log_two_at_its_target_margin() -> None:
    # 2 · (−1 − (−1.6)) − 1.2 = 0
    found = simpo_loss(torch.tensor([-1.0]), torch.tensor([-1.6]), beta=2.0, target_margin=1.2)

    assert found.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_pairs_give_a_loss_of_zero_that_has_a_gradient(dtype: torch.dtype) -> None:
    none = torch.zeros(0, dtype=dtype, requires_grad=True)

    totals = [
        loss.sum()
        for loss in (
            dpo_loss(none, none, beta=1.0),
            ipo_loss(none, none, beta=1.0),
            kto_loss(none, torch.zeros(0, dtype=torch.bool), 0.0, beta=1.0),
            orpo_loss(none, none, beta=1.0),
            simpo_loss(none, none, beta=1.0, target_margin=1.0),
        )
    ]

    assert all(total.item() == 0 and total.requires_grad for total in totals)
