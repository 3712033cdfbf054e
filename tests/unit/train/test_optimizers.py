"""Each optimizer's first steps, done by hand on a weight of two numbers or a small matrix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM

from fettle.recipe.optimizer import OptimizerSpec
from fettle.train.optimizers import hidden_matrices, make_optimizer, parameter_groups

LR = 0.1


def stepped(kind, gradients, start=(1.0, -2.0), weight_decay=0.0, **keys):
    """The weight after a step for each of the gradients."""
    weight = nn.Parameter(torch.tensor(start))
    groups = [{"params": [weight], "weight_decay": weight_decay}]
    optimizer = make_optimizer(OptimizerSpec(kind=kind, **keys), groups, LR, {id(weight)})
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    return weight.detach().flatten().tolist()


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adams_first_step_is_the_rate_in_the_gradients_direction(kind):
    # m / (1 − β1) = g and v / (1 − β2) = g²: the step is lr · g / |g|.
    assert stepped(kind, [(3.0, -0.5)]) == pytest.approx([1 - 0.1, -2 + 0.1])


def test_adams_second_step_has_the_means_of_both_gradients():
    # β1 = β2 = 0.5: m = 0.5 · 0.5 · 1 + 0.5 · 3 = 1.75, of 0.75; v = 0.25 · 1 + 0.5 · 9 = 4.75, of 0.75.
    expected = 1 - 0.1 - 0.1 * (1.75 / 0.75) / math.sqrt(4.75 / 0.75)
    assert stepped("adam", [(1.0, 1.0), (3.0, 3.0)], beta1=0.5, beta2=0.5)[0] == pytest.approx(expected)


def test_adamw_decays_the_weights_and_adam_the_gradients():
    # AdamW: 1 · (1 − 0.1 · 0.5) − 0.1; Adam: the gradient becomes 3 + 0.5 · 1, whose step is the rate all the same.
    assert stepped("adamw", [(3.0, 3.0)], weight_decay=0.5)[0] == pytest.approx(0.95 - 0.1)
    assert stepped("adam", [(3.0, 3.0)], weight_decay=0.5)[0] == pytest.approx(1 - 0.1)


def test_sgd_adds_its_earlier_steps_with_momentum():
    # 1 − 0.1 · 2, then − 0.1 · (0.5 · 2 + 4).
    assert stepped("sgd", [(2.0, 0.0), (4.0, 0.0)], momentum=0.5) == pytest.approx([1 - 0.2 - 0.5, -2])


def test_sgd_decays_the_gradients():
    # −2 − 0.1 · (0 + 0.5 · −2)
    assert stepped("sgd", [(2.0, 0.0)], weight_decay=0.5) == pytest.approx([1 - 0.1 * 2.5, -2 + 0.1])


def test_rmsprop_divides_by_the_root_of_the_mean_square():
    # v = 0.25 · 4 (0.75 of nothing before): the root is 1, the step 0.1 · 2.
    assert stepped("rmsprop", [(2.0, 0.0)], smoothing=0.75) == pytest.approx([1 - 0.2, -2])


def test_adafactors_first_step_is_relative_to_the_weights_size():
    # Algorithm 4 with β2 = 0 at step 1: the update is R·C / mean(R) factored from g², here of rank one, so |u| = 1;
    # the step is lr times the root mean square of the weight, 2.
    moved = stepped("adafactor", [((1.0, 2.0), (2.0, 4.0))], start=((2.0, -2.0), (2.0, 2.0)))
    assert moved == pytest.approx([2 - 0.2, -2 - 0.2, 2 - 0.2, 2 - 0.2], abs=1e-4)


def test_muons_step_has_singular_values_near_one_whatever_the_gradients_are():
    gradient = torch.tensor([[3.0, 0.0], [0.0, 0.01]]) @ torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    moved = torch.tensor(stepped("muon", [gradient.tolist()], start=((0.0, 0.0), (0.0, 0.0)))).reshape(2, 2)
    # Scaled to AdamW's size: lr · 0.2 · sqrt(2); the iteration's own values lie in 0.5 … 1.5 (Jordan 2024).
    found = torch.linalg.svdvals(moved) / (LR * 0.2 * math.sqrt(2))
    assert found.min() > 0.5 and found.max() < 1.5


def test_muon_steps_matrices_and_adamw_all_else():
    matrix, vector = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    optimizer = make_optimizer(OptimizerSpec(kind="muon"), [{"params": [matrix, vector]}], LR, {id(matrix)})
    matrix.grad, vector.grad = torch.eye(2), torch.tensor([5.0, -5.0])
    optimizer.step()
    assert vector.tolist() == pytest.approx([-LR, LR])
    assert set(optimizer.state[matrix]) == {"momentum_buffer"}
    assert set(optimizer.state[vector]) == {"step", "exp_avg", "exp_avg_sq"}


def test_a_schedule_and_a_saved_state_hold_for_both_parts_of_muon():
    def run(num_steps, saved=None):
        weights = [nn.Parameter(torch.eye(2)), nn.Parameter(torch.ones(2))]
        optimizer = make_optimizer(OptimizerSpec(kind="muon"), [{"params": weights}], LR, {id(weights[0])})
        schedule = LambdaLR(optimizer, lambda step: 1 / (step + 1))
        if saved is not None:
            optimizer.load_state_dict(saved[0])
            schedule.load_state_dict(saved[1])
            for weight, value in zip(weights, saved[2], strict=True):
                weight.data.copy_(value)
        for _ in range(num_steps):
            for number, weight in enumerate(weights):
                weight.grad = weight.detach() * (number + 1) + 1
            optimizer.step()
            schedule.step()
        values = [weight.detach().clone() for weight in weights]
        return optimizer.state_dict(), schedule.state_dict(), values

    straight, resumed = run(4), run(2, saved=run(2))
    assert [group["lr"] for group in resumed[0]["param_groups"]] == [pytest.approx(LR / 5)] * 2
    assert all(torch.equal(a, b) for a, b in zip(straight[2], resumed[2], strict=True))


def test_norms_and_biases_do_not_decay_and_frozen_weights_are_in_no_group():
    model = nn.ModuleDict({"linear": nn.Linear(2, 2), "frozen": nn.Linear(2, 2).requires_grad_(False)})
    groups = parameter_groups(model, {"linear.weight", "frozen.weight"}, 0.1)
    assert [(group["weight_decay"], group["params"]) for group in groups] == [
        (0.1, [model["linear"].weight]),
        (0.0, [model["linear"].bias]),
    ]
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), {"weight"}, 0.1)) == 1


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_heads_and_norms_are_no_hidden_matrices(tied):
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    found = hidden_matrices(model)
    names = {name.split(".")[-2] for name, weight in model.named_parameters() if id(weight) in found}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_lora_plus_gives_the_matrices_b_a_rate_of_their_own_after_the_others():
    model = nn.ModuleDict({"lora_A": nn.Linear(2, 1, bias=False), "lora_B": nn.Linear(1, 2, bias=False)})
    a, b = model["lora_A"].weight, model["lora_B"].weight
    decaying = {"lora_A.weight", "lora_B.weight"}
    groups = parameter_groups(model, decaying, 0.1, rate_of=lambda name: 16 * LR if "lora_B" in name else None)
    assert [(group["params"], group.get("lr"), group["weight_decay"]) for group in groups] == [
        ([a], None, 0.1),
        ([b], 16 * LR, 0.1),
    ]
    optimizer = make_optimizer(OptimizerSpec(), groups, LR)
    schedule = LambdaLR(optimizer, lambda step: 0.5)
    # Adam's first step is the rate; half of it by the schedule: 0.05 and 0.8.
    before = [weight.detach().clone() * (1 - rate * 0.1) for weight, rate in ((a, 0.05), (b, 0.8))]
    for weight in (a, b):
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert schedule.get_last_lr() == pytest.approx([0.05, 0.8])
    torch.testing.assert_close([a.detach(), b.detach()], [before[0] - 0.05, before[1] - 0.8])


def test_adamw_of_eight_bits_takes_adamws_first_step_and_keeps_its_moments_in_bytes():
    moved = []
    for kind in ("adamw", "adamw_8bit"):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(64, 64))
        optimizer = make_optimizer(OptimizerSpec(kind=kind), [{"params": [weight], "weight_decay": 0.1}], LR)
        weight.grad = torch.randn(64, 64)
        optimizer.step()
        moved.append(weight.detach())
        kept = {value.dtype for value in optimizer.state[weight].values() if torch.is_tensor(value) and value.ndim == 2}
    torch.testing.assert_close(moved[0], moved[1], atol=1e-5, rtol=1e-5)
    assert kept == {torch.uint8}  # a weight of fewer than 4,096 numbers keeps them in float32
