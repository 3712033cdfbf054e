"""Layers by depth, and the rates that each learns at and when."""

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from fettle.models.layers import depths
from fettle.train.param_groups import LayerRates

_LLAMA = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 40,
}
_GPT = {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 40}
CONFIGS: list[PreTrainedConfig] = [
    LlamaConfig(**_LLAMA),
    MistralConfig(**_LLAMA),
    MixtralConfig(**_LLAMA, num_local_experts=8),
    Qwen3Config(**_LLAMA, head_dim=8),
    Gemma2Config(**_LLAMA, head_dim=8),
    PhiConfig(**_LLAMA),
    GPT2Config(**_GPT),
    GPTJConfig(**_GPT, rotary_dim=4),
    BloomConfig(hidden_size=16, n_layer=3, n_head=2, vocab_size=40),
    FalconConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, vocab_size=40),
]


def headed(config: PreTrainedConfig) -> PreTrainedModel:
    config.num_labels = 2
    return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture
def llama() -> PreTrainedModel:
    """Three layers: depths 0 to 4."""
    return headed(LlamaConfig(**_LLAMA))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_the_head_is_at_depth_0_the_layers_below_it_and_the_embeddings_at_the_bottom(config: PreTrainedConfig) -> None:
    found = depths(headed(config))

    assert {name.split(".")[0] for name, depth in found.items() if depth == 0} == {"score"}
    for layer, depth in enumerate((3, 2, 1)):
        assert {found[name] for name in found if f".{layer}." in name.replace("experts.", "experts_")} == {depth}
    assert all("embed" in name or "wte" in name or "wpe" in name for name, depth in found.items() if depth == 4)
    assert 4 in found.values()
    rest = [name for name, depth in found.items() if depth == 1 and ".2." not in name]
    assert all("norm" in name or "ln_f" in name for name in rest)


def test_gradual_unfreezing_divides_the_steps_into_equal_parts() -> None:
    rates = LayerRates(unfreeze=2)

    # 9 steps, 3 parts: the head, then the last layer too, then the layer before it; deeper ones never.
    waits = [[depth for depth in range(4) if rates.is_frozen(depth, step, 9)] for step in range(9)]
    assert waits == [[1, 2, 3]] * 3 + [[2, 3]] * 3 + [[3]] * 3


def test_after_the_last_step_nothing_more_is_unfrozen() -> None:
    assert LayerRates(unfreeze=1).is_frozen(2, 8, 8)  # the scheduler asks for the rate of the step after the last


def test_each_layer_has_the_decayed_rate_of_the_one_above() -> None:
    rates = LayerRates(layer_decay=0.5)

    assert [rates.share(depth, 0, 10) for depth in range(4)] == [1.0, 0.5, 0.25, 0.125]


def test_a_layer_that_waits_has_no_rate_at_all() -> None:
    rates = LayerRates(unfreeze=1, layer_decay=0.5)

    assert [rates.share(1, step, 4) for step in range(4)] == [0.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize(("unfreeze", "deepest"), [("all", 4), ("head", 0), (1, 1), (2, 2), (3, 3)])
def test_what_is_never_unfrozen_is_not_trained(llama: PreTrainedModel, unfreeze: int | str, deepest: int) -> None:
    LayerRates(unfreeze).freeze(llama)

    found = depths(llama)
    assert {found[name] for name, weight in llama.named_parameters() if weight.requires_grad} == {*range(deepest + 1)}


def test_splitting_an_optimizer_keeps_its_settings_and_its_parameters(llama: PreTrainedModel) -> None:
    found = depths(llama)
    weights = dict(llama.named_parameters())
    decayed = [weight for name, weight in weights.items() if "norm" not in name]
    plain = [weight for name, weight in weights.items() if "norm" in name]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}])

    LayerRates(layer_decay=0.5).split(llama, optimizer)

    told = [(group["depth"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    # A layer: 7 matrices, 2 norms; the last one's with the norm after it.
    assert told == [
        (0, 0.1, 1),
        (1, 0.1, 7),
        (1, 0.0, 3),
        (2, 0.1, 7),
        (2, 0.0, 2),
        (3, 0.1, 7),
        (3, 0.0, 2),
        (4, 0.1, 1),
    ]
    depth_of = {id(weights[name]): depth for name, depth in found.items()}
    assert all({depth_of[id(w)] for w in group["params"]} == {group["depth"]} for group in optimizer.param_groups)


def test_rates_of_groups_are_the_schedules_times_the_layers(llama: PreTrainedModel) -> None:
    rates = LayerRates(unfreeze=1, layer_decay=0.5)
    rates.freeze(llama)
    optimizer = torch.optim.SGD([weight for weight in llama.parameters() if weight.requires_grad], lr=1.0)
    rates.split(llama, optimizer)

    head, layer = rates.of_groups(optimizer, lambda step: 1 / (step + 1), num_steps=4)

    assert [head(step) for step in range(4)] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert [layer(step) for step in range(4)] == [0, 0, 1 / 6, 1 / 8]


def test_the_gradients_of_layers_that_wait_are_zero_until_their_part_begins(llama: PreTrainedModel) -> None:
    rates, state = LayerRates(unfreeze=2), SimpleNamespace(global_step=0, max_steps=3)
    rates.freeze(llama)
    rates.cut_gradients(llama, state)
    found = depths(llama)

    moving = []
    for state.global_step in range(3):
        llama.zero_grad()
        llama(input_ids=torch.arange(6)[None]).logits.sum().backward()
        learning = [(found[name], weight.grad) for name, weight in llama.named_parameters() if weight.grad is not None]
        moving.append({depth for depth, gradient in learning if gradient.any()})

    assert moving == [{0}, {0, 1}, {0, 1, 2}]
