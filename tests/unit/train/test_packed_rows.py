"""Exact packing: what the model makes of an example does not depend on what shares its row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fettle.data.batches import collate, pack
from fettle.data.tokens import TokenExample

LENGTHS, CAPACITY = (9, 5, 12, 7, 3), 20


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    """Two layers, random; weights large enough that a token in reach matters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        head_dim=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def examples() -> list[TokenExample]:
    random = np.random.default_rng(0)
    return [TokenExample(random.integers(0, 64, n).astype(np.int32), np.ones(n, dtype=bool)) for n in LENGTHS]


@torch.no_grad()
def largest_difference(llama: LlamaForCausalLM, examples: list[TokenExample], packing: bool, *keys: str) -> float:
    """Between each example's logits in the batch and alone, given the batch's `keys` alone."""
    batch = collate(examples, max_length=CAPACITY, packing=packing, pad_id=0)
    together = llama(**{key: batch[key] for key in keys}, use_cache=False).logits
    rows = pack(LENGTHS, CAPACITY) if packing else [[i] for i in range(len(examples))]
    found = []
    for number, row in enumerate(rows):
        at = 0
        for i in row:
            alone = llama(input_ids=torch.from_numpy(examples[i].input_ids.astype(np.int64))[None], use_cache=False)
            found.append((together[number, at : at + LENGTHS[i]] - alone.logits[0]).abs().max().item())
            at += LENGTHS[i]
    assert len(found) == len(examples)
    return max(found)


@pytest.mark.parametrize("packing", [True, False])
def test_each_examples_logits_are_those_it_has_alone(llama, examples, packing):
    assert largest_difference(llama, examples, packing, "input_ids", "position_ids") < 1e-5


def test_without_positions_examples_see_each_other(llama, examples):
    assert largest_difference(llama, examples, True, "input_ids") > 0.1


@torch.no_grad()
def test_the_loss_of_packed_rows_is_that_of_the_examples_alone(llama, examples):
    def losses(batch: dict[str, torch.Tensor]) -> tuple[float, int]:
        logits = llama(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        targets = batch["labels"][:, 1:].flatten()
        total = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum")
        return total.item(), int((targets != -100).sum())

    packed = losses(collate(examples, max_length=CAPACITY, packing=True, pad_id=0))
    alone = [losses(collate([one], max_length=CAPACITY, packing=True, pad_id=0)) for one in examples]
    assert packed[1] == sum(count for _, count in alone) == sum(LENGTHS) - len(LENGTHS)
    assert packed[0] == pytest.approx(sum(loss for loss, _ in alone), rel=1e-5)
