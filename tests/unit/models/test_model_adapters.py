"""LoRA adapters over a model of two layers: attached, continued, merged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fettle.errors import UserError
from fettle.models.adapters import attach, cast_by_autocast_alone, merged, resume
from fettle.models.base import load_weights
from fettle.recipe.adapter import AdapterSpec

SPEC = AdapterSpec(kind="lora", r=4, alpha=8)
IDS = torch.arange(8)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        head_dim=32,
        num_attention_heads=1,
        num_key_value_heads=1,
        num_hidden_layers=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that has learned something: no B is 0 any more."""
    model = attach(load_weights(base, torch.float32), SPEC, base, seed=1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(IDS, use_cache=False).logits


def trainable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def test_a_fresh_adapter_changes_nothing(base):
    plain = logits(load_weights(base, torch.float32))
    assert torch.equal(logits(attach(load_weights(base, torch.float32), SPEC, base, seed=0)), plain)


def test_only_the_adapter_is_trained_and_every_linear_layer_has_one_but_the_head(base):
    names = trainable(attach(load_weights(base, torch.float32), SPEC, base, seed=0))
    assert all("lora_" in name for name in names) and not any("lm_head" in name for name in names)
    assert len(names) == 2 * 7 * 2  # A and B, of q, k, v, o, gate, up, down, in two layers


def test_targets_are_the_layers_that_get_one(base):
    spec = AdapterSpec(kind="lora", r=4, targets=("q_proj",))
    names = trainable(attach(load_weights(base, torch.float32), spec, base, seed=0))
    assert len(names) == 4 and all("q_proj" in name for name in names)


def test_every_worker_begins_with_the_same_adapter_whatever_it_computed_before(base):
    one = trainable(attach(load_weights(base, torch.float32), SPEC, base, seed=3))
    torch.rand(100)
    two = trainable(attach(load_weights(base, torch.float32), SPEC, base, seed=3))
    other = trainable(attach(load_weights(base, torch.float32), SPEC, base, seed=4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_targets_that_name_no_layer_are_told_with_those_there_are(base):
    spec = AdapterSpec(kind="lora", targets=("query",))
    with pytest.raises(UserError, match=r"^adapter\.targets: ") as told:
        attach(load_weights(base, torch.float32), spec, base, seed=0)
    assert "expected: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj" in str(told.value)


def test_a_continued_adapter_is_where_it_was_and_can_be_trained(base, adapter):
    model = resume(load_weights(base, torch.float32), adapter)
    assert len(trainable(model)) == 28
    assert not torch.allclose(logits(model), logits(load_weights(base, torch.float32)), atol=1e-2)


def test_merged_weights_answer_as_base_and_adapter_do(base, adapter):
    apart = logits(resume(load_weights(base, torch.float32), adapter))
    whole = merged(load_weights(base, torch.float32), adapter, torch.float32)
    assert torch.allclose(logits(whole), apart, atol=1e-5)
    assert not any("lora" in name for name in whole.state_dict())


def test_merging_happens_in_float32_whatever_type_is_asked_for(base, adapter):
    exact, cast = (
        merged(load_weights(base, torch.float32), adapter, torch.float32).state_dict(),
        merged(load_weights(base, torch.float32), adapter, torch.bfloat16).state_dict(),
    )
    assert all(torch.equal(cast[name], exact[name].to(torch.bfloat16)) for name in exact)


@pytest.mark.parametrize("kind, casts", [("lora", False), ("dora", True)])
def test_in_autocast_its_inputs_are_cast_once_to_the_same_end(base, kind, casts):
    """Not of DoRA, which takes norms in the type of its input."""
    model = attach(load_weights(base, torch.bfloat16), AdapterSpec(kind=kind, r=4), base, seed=1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)

    def outcome() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            found = model(IDS, use_cache=False).logits
        found.float().logsumexp(-1).sum().backward()
        grads = [weight.grad for weight in trainable(model).values()]
        model.zero_grad()
        return [found.detach(), *grads]

    before = outcome()
    cast_by_autocast_alone(model)

    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    assert layer.cast_input_dtype_enabled is casts
    assert all(torch.equal(one, other) for one, other in zip(outcome(), before, strict=True))
