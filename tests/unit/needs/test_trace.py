"""What passes over a model hold, told from shapes, against what torch says it keeps of a real one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig

from fettle.needs.trace import Micro, config_text, passes, passes_by_rule
from fettle.recipe.adapter import FULL, AdapterSpec

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ROWS, TOKENS = 2, 32


def config(layers: int) -> LlamaConfig:
    return LlamaConfig(**SIZES, num_hidden_layers=layers)


def kept_by_torch(layers: int) -> int:
    """Bytes that autograd keeps of a pass, weights and buffers left out."""
    model = AutoModelForCausalLM.from_config(config(layers)).train()
    own = {one.untyped_storage().data_ptr() for one in [*model.parameters(), *model.buffers()]}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(one: torch.Tensor) -> torch.Tensor:
        if (storage := one.untyped_storage()).data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return one

    ids = torch.ones(ROWS, TOKENS, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        model(input_ids=ids, position_ids=torch.arange(TOKENS).repeat(ROWS, 1), use_cache=False)
    return sum(storage.nbytes() for storage in found.values())


def test_what_layers_keep_is_what_torch_keeps_of_them() -> None:
    found = passes(config_text(config(6)), FULL, Micro(ROWS, TOKENS))

    # What lives is a little more than what autograd names: expanded keys and values lie under views of them.
    named = kept_by_torch(6) - kept_by_torch(1)
    assert named <= found.kept <= 1.1 * named


def test_gradient_checkpointing_keeps_the_inputs_of_the_layers_alone() -> None:
    found = passes(config_text(config(6)), FULL, Micro(ROWS, TOKENS, checkpointing=True))

    assert found.kept == 5 * ROWS * TOKENS * SIZES["hidden_size"] * 4


def test_lisa_keeps_less_than_full_training_and_more_than_a_few_layers() -> None:
    text, micro = config_text(config(6)), Micro(ROWS, TOKENS)
    kinds = ("freeze", "lisa", "full")

    tops = [passes(text, AdapterSpec(kind=kind), micro).top for kind in kinds]

    assert tops == sorted(tops) and len(set(tops)) == 3


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "prefix", "prompt", "bottleneck"])
def test_every_adapter_can_be_run_through(kind: Any) -> None:
    assert passes(config_text(config(3)), AdapterSpec(kind=kind), Micro(ROWS, TOKENS)).top > 0


def test_the_pass_over_held_out_records_holds_little_but_the_logits() -> None:
    found = passes(config_text(config(6)), FULL, Micro(ROWS, TOKENS))

    logits = ROWS * TOKENS * SIZES["vocab_size"] * 4
    assert 2 * logits <= found.forward < found.top


def test_models_whose_code_looks_at_numbers_are_counted_by_a_rule() -> None:
    sparse = MixtralConfig(**SIZES, num_hidden_layers=2, num_local_experts=4)

    with pytest.raises(NotImplementedError):
        passes(config_text(sparse), FULL, Micro(ROWS, TOKENS))

    # 68 bytes of float32 a unit of width and token: Korthikanti et al. 2022, equation 1.
    rule = passes_by_rule(64, 2, 128, Micro(ROWS, TOKENS))
    assert rule.kept == 68 * 64 * ROWS * TOKENS
