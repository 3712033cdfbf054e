"""The reward model's loss: by hand, and as TRL computes it."""

from __future__ import annotations

from math import exp, log
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification
from trl.trainer.reward_trainer import DataCollatorForPreference, RewardTrainer

from fettle.data.batches import IGNORE
from fettle.data.tokens import TokenExample
from fettle.models.heads import _token_scores
from fettle.train.reward import RewardTask, bradley_terry

PAD = 1


def record(*answers: list[int], values: list[float] | None = None) -> TokenExample:
    """Answers as token ids, best first."""
    ids = np.concatenate(answers).astype(np.int32)
    ends = np.cumsum([len(answer) for answer in answers])
    return TokenExample(ids, np.ones(len(ids), bool), ends, np.array(values or [0.0] * len(answers), np.float32))


def scoring(*rewards: float) -> Any:
    """A model that gives the n-th text the n-th reward at its last token, and something else before."""

    def model(input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        scores = torch.full((*input_ids.shape, 1), 99.0)
        for token, reward in enumerate(rewards, start=10):
            scores[input_ids == token] = reward
        return scores.requires_grad_()

    return model


def task(**told: Any) -> RewardTask:
    return RewardTask(**({"max_length": 64, "packing": True, "pad_id": PAD} | told))


def loss(examples: list[TokenExample], *rewards: float, **told: Any) -> float:
    made = task(**told)
    return made.loss_sum(scoring(*rewards), made.collate(examples)).item()


def test_the_loss_of_a_pair_is_log_two_where_both_score_the_same():
    assert loss([record([2, 10], [2, 11])], 0.7, 0.7) == pytest.approx(log(2))


def test_the_loss_of_a_pair_is_minus_the_log_of_the_sigmoid_of_the_difference():
    # -log σ(2 - 1) = log(1 + e^-1)
    assert loss([record([2, 10], [2, 11])], 2.0, 1.0) == pytest.approx(log(1 + exp(-1)))


def test_a_margin_is_taken_off_the_difference():
    example = record([2, 10], [2, 11], values=[0.25, 0.0])
    # -log σ(2 - 1 - 0.25)
    assert loss([example], 2.0, 1.0, margin=True) == pytest.approx(log(1 + exp(-0.75)))
    assert loss([example], 2.0, 1.0) == pytest.approx(log(1 + exp(-1)))


def test_the_loss_of_three_scored_answers_is_the_mean_over_their_three_pairs():
    example = record([2, 10], [2, 11], [2, 12], values=[5.0, 4.0, 2.0])
    # Rewards 2, 1, 0; margins 1, 3, 2 of the pairs (1, 2), (1, 3), (2, 3).
    by_hand = (log(1 + exp(-1 + 1)) + log(1 + exp(-2 + 3)) + log(1 + exp(-1 + 2))) / 3
    assert loss([example], 2.0, 1.0, 0.0, margin=True) == pytest.approx(by_hand)


def test_each_record_counts_once_however_many_answers_it_has():
    three, two = record([2, 10], [2, 11], [2, 12]), record([2, 13], [2, 14])
    by_hand = (log(1 + exp(-1)) + log(1 + exp(-2)) + log(1 + exp(-1))) / 3 + log(2)
    assert loss([three, two], 2.0, 1.0, 0.0, 5.0, 5.0) == pytest.approx(by_hand)
    assert (task().collate([three, two])["labels"] != IGNORE).sum() == 2


def test_centring_adds_the_squared_sum_of_the_rewards():
    assert loss([record([2, 10], [2, 11])], 2.0, 1.0, centre=0.01) == pytest.approx(log(1 + exp(-1)) + 0.09)


def test_a_record_of_ties_has_no_term():
    made = task()
    tied, pair = record([2, 10], [2, 11], values=[2.0, 2.0]), record([2, 12], [2, 13])
    batch = made.collate([tied, pair])
    assert batch["labels"].tolist() == [IGNORE, 0]
    assert made.loss_sum(scoring(9.0, 8.0, 1.0, 1.0), batch).item() == pytest.approx(log(2))


def test_no_examples_give_a_loss_of_zero_with_a_gradient():
    made = task()
    batch = made.collate([])
    scores = torch.ones(*batch["input_ids"].shape, 1, requires_grad=True)
    total = made.loss_sum(lambda **_: scores, batch)
    total.backward()
    assert (total.item(), batch["labels"].numel(), float(scores.grad.sum())) == (0.0, 0, 0.0)


def test_an_answer_is_scored_at_its_last_token_that_is_no_padding():
    made = task(packing=False)
    batch = made.collate([record([2, 3, 10, PAD], [2, 11])])  # the end of text is the padding
    assert [batch["input_ids"][row, column].item() for row, column in batch["ends"].tolist()] == [10, 11]


def test_the_measures_are_accuracy_with_half_for_ties_margin_and_mean_reward():
    made = task()
    examples = [record([2, 10], [2, 11], [2, 12]), record([2, 13], [2, 14])]
    told = made.measures(scoring(2.0, 1.0, 3.0, 5.0, 5.0), made.collate(examples))
    # First record: pairs 2 > 1 right, 2 > 3 and 1 > 3 wrong; differences 1, -1, -2; mean reward 2. Second: a tie.
    assert told["accuracy"].item() == pytest.approx(1 / 3 + 1 / 2)
    assert told["reward_margin"].item() == pytest.approx((1 - 1 - 2) / 3 + 0)
    assert told["reward"].item() == pytest.approx(2 + 5)


def test_pairs_in_another_order_have_the_same_loss():
    rewards = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.1, 0.5, 1.0]), torch.tensor([0.0, 1.0, 0.5])
    flipped = bradley_terry(*(part.flip(0) for part in rewards), centre=0.1).flip(0)
    torch.testing.assert_close(bradley_terry(*rewards, centre=0.1), flipped)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("margins", [None, [0.5, 1.5, 0.25]])
@pytest.mark.parametrize("centre", [0.0, 0.01])
def test_the_loss_is_that_of_trls_reward_trainer(packing: bool, margins: list[float] | None, centre: float):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=64,
        pad_token_id=PAD,
        num_labels=1,
        initializer_range=0.5,
    )
    model = LlamaForSequenceClassification(config).eval()
    rows = [([5, 6, 7, 2], [5, 6, 2]), ([8, 9, 2], [8, 10, 11, 12, 2]), ([20, 21, 22, 2], [20, 23, 2])]
    told = [{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in rows]
    if margins is not None:
        told = [row | {"margin": margin} for row, margin in zip(told, margins, strict=True)]
    trainer = SimpleNamespace(
        model=model,
        args=SimpleNamespace(center_rewards_coefficient=centre or None),
        accelerator=SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x),
        _metrics={"train": _Lists(), "eval": _Lists()},
        _total_train_tokens=0,
        _tp_size=1,
    )
    expected = RewardTrainer.compute_loss(trainer, model, DataCollatorForPreference(pad_token_id=PAD)(told))

    values = [[margin, 0.0] for margin in margins] if margins is not None else [[0.0, 0.0]] * 3
    examples = [record(*pair, values=value) for pair, value in zip(rows, values, strict=True)]
    made = task(packing=packing, margin=margins is not None, centre=centre)
    batch = made.collate(examples)
    ours = made.loss_sum(lambda **inputs: _token_scores(model, **inputs), batch) / 3
    torch.testing.assert_close(ours, expected)


class _Lists(dict[str, list[float]]):
    def __missing__(self, key: str) -> list[float]:
        return self.setdefault(key, [])
