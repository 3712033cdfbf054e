"""The classifier's task: one label a text, read at its last token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fettle.data.tokens import TokenExample
from fettle.train.classify import ClassifyTask
from fettle.train.param_groups import LayerRates


def text(*ids: int, label: int) -> TokenExample:
    return TokenExample(np.array(ids), np.zeros(len(ids), bool), np.array([len(ids)]), np.array([label], np.float32))


def task(*, packing: bool) -> ClassifyTask:
    return ClassifyTask(("a", "b", "c"), LayerRates(), max_length=8, packing=packing, pad_id=9, seed=0)


def echo(input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    """Scores of three labels: 2 for the one whose number the token is, 0 for the others."""
    return torch.nn.functional.one_hot(input_ids.clamp(max=3), 4)[..., :3].float() * 2


@pytest.mark.parametrize("packing", [True, False])
def test_each_text_is_read_at_its_last_token_however_rows_are_filled(packing: bool) -> None:
    batch = task(packing=packing).collate([text(2, 2, 0, label=0), text(1, label=1), text(0, 2, label=2)])

    row, column = batch["ends"].unbind(-1)
    assert batch["input_ids"][row, column].tolist() == batch["labels"].tolist() == [0, 1, 2]


def test_the_loss_is_the_cross_entropy_summed_over_texts() -> None:
    ours = task(packing=True)
    batch = ours.collate([text(2, 0, label=0), text(0, 1, label=2)])

    # Scores (2, 0, 0) at label 0, (0, 2, 0) at label 2: log(e² + 2) each, less 2 and less 0.
    expected = 2 * np.log(np.exp(2) + 2) - 2
    assert ours.loss_sum(echo, batch).item() == pytest.approx(expected, rel=1e-6)


def test_accuracy_counts_the_texts_whose_label_scores_highest() -> None:
    ours = task(packing=True)
    batch = ours.collate([text(2, 0, label=0), text(0, 1, label=2), text(1, label=1)])

    told = ours.measures(echo, batch)

    assert told["accuracy"].item() == 2
    assert torch.equal(told["loss"], ours.loss_sum(echo, batch))


def test_no_texts_at_all_give_a_loss_of_zero_with_a_gradient() -> None:
    scale = torch.ones((), requires_grad=True)

    def scaled(**inputs: Any) -> torch.Tensor:
        return echo(**inputs) * scale

    ours = task(packing=True)
    loss = ours.loss_sum(scaled, ours.collate([]))
    loss.backward()

    assert (loss.item(), scale.grad) == (0, torch.zeros(()))
