"""One batch, one loss: packed, padded on the right as `collate` does, or padded on the left.

Nothing that trains pads on the left; but padding is an example of its own, with positions of its own from 0, and so it
could lie anywhere. Without those positions it could not: left padding shifts all that is learned.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from fettle.data.batches import IGNORE
from fettle.data.tokens import TokenExample
from fettle.train import logprobs
from fettle.train.causal import CausalTask

LENGTHS, CAPACITY, VOCAB = (9, 5, 12, 7, 3), 20, 64


def small_llama() -> LlamaForCausalLM:
    """Two layers, random, with weights large enough that a token in reach matters; rotary positions."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, initializer_range=0.2, **sizes, attn_implementation="sdpa"))


def small_gpt2() -> GPT2LMHeadModel:
    """The same with a learned vector for each position."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 2 * CAPACITY}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, initializer_range=0.2, **sizes, attn_implementation="sdpa"))


@pytest.fixture(params=[small_llama, small_gpt2], ids=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = request.param().eval()
    add_fused_lm_head(made, outputs=("log_probs",))
    return made


@pytest.fixture(scope="module")
def examples() -> list[TokenExample]:
    """Of each the first three tokens bear no loss, as a prompt's do not."""
    random = np.random.default_rng(0)
    return [
        TokenExample(random.integers(0, VOCAB, n).astype(np.int32), np.arange(n) >= 3, np.array([n])) for n in LENGTHS
    ]


def task(packing: bool) -> CausalTask:
    made = CausalTask(max_length=CAPACITY, packing=packing, pad_id=0)
    made._vocab = VOCAB
    return made


def padded_left(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows of one example each, with their padding moved from their end to their beginning."""
    lengths = torch.tensor(LENGTHS)
    width = batch["input_ids"].shape[1]
    places = (torch.arange(width)[None] + lengths[:, None]) % width
    return {key: value.gather(1, places) for key, value in batch.items()}


def shifted(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same rows with positions that count from the row's beginning, over its padding."""
    return batch | {"position_ids": torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])}


def loss_and_gradient(model: PreTrainedModel, batch: dict[str, torch.Tensor], packing: bool) -> tuple[float, float]:
    """(the loss, the norm of its gradient)."""
    model.zero_grad()
    loss = task(packing).loss_sum(model, batch)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None])
    return loss.item(), norm.item()


@pytest.mark.parametrize("most_logits", [logprobs.MOST_LOGITS, 0], ids=["logits", "fused head"])
def test_a_batch_has_one_loss_and_gradient_wherever_its_padding_lies(
    model: PreTrainedModel, examples: list[TokenExample], monkeypatch: pytest.MonkeyPatch, most_logits: int
) -> None:
    monkeypatch.setattr(logprobs, "MOST_LOGITS", most_logits)
    packed, right = (task(packing).collate(examples) for packing in (True, False))
    left = padded_left(right)
    assert len(packed["input_ids"]) < len(right["input_ids"]) == len(LENGTHS)
    assert [int(row[-1]) for row in left["input_ids"]] == [int(one.input_ids[-1]) for one in examples]

    found = [loss_and_gradient(model, batch, packing=batch is packed) for batch in (packed, right, left)]

    alone = sum(loss_and_gradient(model, task(True).collate([one]), packing=True)[0] for one in examples)
    assert [loss for loss, _ in found] == pytest.approx([alone] * 3, rel=1e-5)
    assert [norm for _, norm in found] == pytest.approx([found[0][1]] * 3, rel=1e-4)
    labels = [int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in (packed, right, left)]
    assert labels == [sum(length - 3 for length in LENGTHS if length > 3)] * 3


def test_left_padding_under_positions_of_the_row_is_another_loss(
    model: PreTrainedModel, examples: list[TokenExample]
) -> None:
    right = task(False).collate(examples)
    left = shifted(padded_left(right))
    assert abs(loss_and_gradient(model, left, False)[0] - loss_and_gradient(model, right, False)[0]) > 0.01
