"""Layers of language models by depth, and freezing those below."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from fettle.models.base import BUNDLED
from fettle.models.layers import depths, freeze_below, num_layers

_LLAMA = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}


def trained(model: PreTrainedModel) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def llama(**keys: bool) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(LlamaConfig(**_LLAMA, vocab_size=40, **keys))


def gpt2() -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=40))


def test_the_output_head_is_at_depth_0_and_the_embeddings_lie_below_all_layers() -> None:
    found = depths(llama())
    assert [name for name, depth in found.items() if depth == 0] == ["lm_head.weight"]
    assert [name for name, depth in found.items() if depth == 4] == ["model.embed_tokens.weight"]
    assert {name.split(".")[2] for name, depth in found.items() if depth == 2} == {"1"}


def test_a_tied_embedding_is_the_head() -> None:
    assert depths(llama(tie_word_embeddings=True))["model.embed_tokens.weight"] == 0
    found = depths(gpt2())
    assert (found["transformer.wte.weight"], found["transformer.wpe.weight"]) == (0, 4)


@pytest.mark.parametrize(("layers", "lowest"), [(1, 2), (2, 1), (3, 0)])
def test_freezing_leaves_the_last_layers_the_norm_after_them_and_the_head(layers: int, lowest: int) -> None:
    model = llama()
    freeze_below(model, layers)
    numbers = {int(name.split(".")[2]) for name in trained(model) if ".layers." in name}
    assert numbers == {*range(lowest, 3)}
    assert {name for name in trained(model) if ".layers." not in name} == {"model.norm.weight", "lm_head.weight"}


def test_the_number_of_layers_is_told_by_the_configuration() -> None:
    assert num_layers(BUNDLED["tiny"]) == 6
