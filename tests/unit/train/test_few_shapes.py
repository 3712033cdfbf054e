"""In bfloat16 on a CPU rows have few widths; what is computed of them stays what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from fettle.data.batches import IGNORE
from fettle.models import adapters
from fettle.models.base import load_weights
from fettle.recipe.adapter import AdapterSpec
from fettle.train.causal import CausalTask
from fettle.train.logprobs import _even, in_few_shapes, label_logprobs, want_few_shapes
from models_of import write_model

LENGTHS = [[5, 12], [9, 8]]
VOCAB = 64


def batch() -> dict[str, torch.Tensor]:
    ids = torch.arange(1, 35).reshape(2, 17)
    labels = ids.clone()
    for row, lengths in enumerate(LENGTHS):
        starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
        labels[row, starts] = IGNORE  # nothing before it predicts the first token of a record
    labels[0, 6:9] = IGNORE
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in LENGTHS])
    return {"input_ids": ids, "position_ids": positions, "labels": labels}


def learned(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities of the labels, the gradients of all that is trained)."""
    given = batch()
    logprobs = label_logprobs(model, given, given["labels"], VOCAB)
    logprobs.sum().backward()
    grads = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    model.zero_grad()
    return logprobs.detach(), grads


@pytest.mark.parametrize("kind", ["full", "lora", "prompt"])
def test_log_probabilities_and_gradients_are_the_same(kind: str, tmp_path: Path) -> None:
    folder = write_model("llama", tmp_path)
    model: Any = load_weights(folder, torch.float32)
    add_fused_lm_head(model, outputs=("log_probs",))
    spec = AdapterSpec(kind=kind)  # type: ignore[arg-type]
    trained = adapters.attach(model, spec, folder, 0) if spec.is_beside else model
    before, grads = learned(trained)
    widths: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _, ids, out: widths.append(ids[0].shape[1]))

    want_few_shapes(model)
    after, grads_after = learned(trained)

    assert widths[0] % 16 == 0 and widths[0] > 17
    assert before.shape == after.shape == ((batch()["labels"] != IGNORE).sum(),)
    assert torch.allclose(before, after, atol=1e-5) and torch.allclose(grads, grads_after, atol=1e-4)


def test_what_is_added_is_a_record_of_its_own_without_loss(tmp_path: Path) -> None:
    model, given = load_weights(write_model("llama", tmp_path), torch.float32), batch()
    want_few_shapes(model)

    read, labels = in_few_shapes(model, given, given["labels"])

    assert labels[:, 17:].eq(IGNORE).all() and torch.equal(labels[:, :17], given["labels"])
    assert read["position_ids"][:, 17:].tolist() == [list(range(15))] * 2
    assert torch.equal(read["input_ids"][:, :17], given["input_ids"])


def test_other_models_read_what_they_are_given(tmp_path: Path) -> None:
    model, given = load_weights(write_model("llama", tmp_path), torch.float32), batch()
    read, labels = in_few_shapes(model, given, given["labels"])

    assert labels is given["labels"] and read["input_ids"] is given["input_ids"]


def test_noise_on_the_embeddings_is_as_wide_as_they_are(tmp_path: Path) -> None:
    task = CausalTask(max_length=17, packing=True, pad_id=0, neftune=5.0)
    model: Any = task.load(write_model("llama", tmp_path), torch.float32)
    quiet = float(task.loss_sum(model.eval(), batch()))

    want_few_shapes(model)

    assert float(task.loss_sum(model, batch())) == pytest.approx(quiet, rel=1e-5)
    noisy = float(task.loss_sum(model.train(), batch()))
    assert noisy != pytest.approx(quiet, rel=1e-5) and abs(noisy - quiet) < quiet


def test_widths_grow_by_a_sixteenth() -> None:
    found = [_even(count) for count in range(4097)]

    assert found[:2] == [0, 16] and found[513] == 544 and found[1025] == 1088
    assert all(count <= even <= max(count + 16, count * 17 / 16 + 1) for count, even in enumerate(found))
    assert len({even for even in found if 512 < even <= 1024}) == 16
