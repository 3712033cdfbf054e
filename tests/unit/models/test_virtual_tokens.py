"""Learned tokens before every example of a packed row, against PEFT's own forward of each example alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, PeftModelForCausalLM
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from fettle.models.adapters import attach, resume
from fettle.models.base import load_weights
from fettle.models.virtual_tokens import visible
from fettle.recipe.adapter import AdapterSpec
from models_of import write_model

KINDS = ("prefix", "prompt")
LENGTHS = (5, 3, 4)


def model() -> LlamaForCausalLM:
    """With fewer key heads than heads, and heads wider than the hidden size tells."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=2,
        intermediate_size=24,
        initializer_range=0.3,
    )
    found = LlamaForCausalLM(config)
    add_fused_lm_head(found, outputs=("log_probs",))
    return found


def adapted(kind: str) -> PeftModel:
    found = attach(model(), AdapterSpec(kind=kind, tokens=3), Path("base"), seed=1)
    encoder = found.prompt_encoder["default"]
    torch.nn.init.normal_(encoder.embedding.weight)
    return found.eval()


def packed() -> tuple[torch.Tensor, torch.Tensor]:
    """Three examples in one row: ids and positions, [1, 12]."""
    torch.manual_seed(2)
    ids = torch.randint(0, 32, (1, sum(LENGTHS)))
    return ids, torch.cat([torch.arange(length) for length in LENGTHS])[None]


def test_every_token_sees_the_learned_ones_and_its_own_example():
    rows = visible(torch.tensor([[0, 1, 0]]), 2)[0, 0].int().tolist()
    assert rows == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_packed_examples_have_the_logits_that_peft_gives_each_alone(kind):
    found = adapted(kind)
    ids, positions = packed()
    together = found(input_ids=ids, position_ids=positions, use_cache=False).logits
    alone = [PeftModelForCausalLM.forward(found, input_ids=part).logits for part in ids.split(LENGTHS, dim=1)]
    if kind == "prompt":  # PEFT gives the learned tokens' too
        alone = [part[:, 3:] for part in alone]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_fused_head_has_the_log_probabilities_of_the_same_tokens(kind):
    found = adapted(kind)
    ids, positions = packed()
    labels = torch.where(positions > 0, ids, -100)
    logits = found(input_ids=ids, position_ids=positions, use_cache=False).logits
    told = found(input_ids=ids, position_ids=positions, labels=labels, fused_lm_head=True).log_probs
    wanted = torch.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(told, wanted * (labels[:, 1:] != -100), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_one_goes_on_trainable_with_the_same_logits(kind, tmp_path):
    found = adapted(kind)
    found.save_pretrained(tmp_path)
    again = resume(model(), tmp_path)
    ids, positions = packed()
    with torch.no_grad():
        assert torch.equal(again.eval()(ids, positions).logits, found(ids, positions).logits)
    assert [name.rpartition(".")[0] for name, weight in again.named_parameters() if weight.requires_grad] == [
        "prompt_encoder.default.embedding"
    ]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_switched_off_the_model_is_what_it_was(kind):
    found = adapted(kind)
    ids, positions = packed()
    with found.disable_adapter():
        off = found(input_ids=ids, position_ids=positions, use_cache=False).logits
    assert torch.equal(off, model().eval()(input_ids=ids, position_ids=positions, use_cache=False).logits)
    assert not torch.allclose(found(ids, positions).logits, off, atol=1e-2)


def test_a_prompt_begins_as_tokens_of_the_vocabulary():
    found = attach(model(), AdapterSpec(kind="prompt", tokens=3), Path("base"), seed=1)
    rows = found.prompt_encoder["default"].embedding.weight
    table = model().get_input_embeddings().weight
    assert all((row == table).all(dim=1).any() for row in rows)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_attention_that_adds_its_mask_keeps_examples_apart_too(kind, tmp_path):
    """GPT-J has no other. A mask of True and False would be taken for 1 and 0."""
    base = load_weights(write_model("gptj", tmp_path), torch.float32)
    found = attach(base, AdapterSpec(kind=kind, tokens=3), tmp_path, seed=1).eval()
    ids, positions = packed()
    row = found(input_ids=ids, position_ids=positions).logits[0]
    examples = zip(ids.split(LENGTHS, 1), positions.split(LENGTHS, 1), strict=True)
    alone = [found(input_ids=one, position_ids=places).logits[0] for one, places in examples]
    torch.testing.assert_close(row, torch.cat(alone), atol=1e-5, rtol=0)
