"""Frozen weights that the next stage of a process is given again."""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from fettle.models.shared import KeptBases, frozen_from, kept
from fettle.recipe.adapter import AdapterSpec


def small() -> LlamaForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))


def test_outside_every_model_is_loaded_anew():
    assert kept(("a",), small).lm_head.weight is not kept(("a",), small).lm_head.weight


def test_inside_models_have_parts_of_their_own_over_the_same_weights(tmp_path):
    from fettle.models.adapters import attach

    bases: KeptBases = {}
    spec = AdapterSpec(kind="lora", r=2)
    with frozen_from(bases):
        one, other = kept(("a",), small), kept(("a",), small)
    first, second = attach(one, spec, tmp_path, 0), attach(other, spec, tmp_path, 1)
    weights = {name: value.data_ptr() for name, value in first.named_parameters()}
    same = {name for name, value in second.named_parameters() if weights[name] == value.data_ptr()}
    assert same == {name for name in weights if "lora_" not in name}


def test_one_base_is_kept_at_a_time():
    bases: KeptBases = {}
    with frozen_from(bases):
        kept(("a",), small)
        kept(("b",), small)
    assert list(bases) == [("b",)]
