"""A stage's adapter against what it begins from and what the model has places for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from small_house import House, finish

from fettle.errors import UserError
from fettle.models.adapter_folder import kind_in
from fettle.pipeline.prepare import prepare

DOMAIN = {"name": "domain", "kind": "pretrain", "data": "corpus.txt"}
TASK = {"name": "task", "kind": "sft", "data": "chat.jsonl"}
LORA = {"kind": "lora", "r": 4}


def refused(house: House, **overrides: Any) -> str:
    with pytest.raises(UserError) as told:
        prepare(house.recipe(**overrides), house.plan(**overrides), house.out / "tokens")
    return str(told.value)


def with_config(house: House, **config: Any) -> House:
    """The house over a base of another configuration."""
    file = house.folder / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return house


def made(house: House, adapter: dict[str, Any], config: dict[str, Any]) -> str:
    """The folder of an adapter that an earlier run made, as its adapter_config.json tells it."""
    (first,) = house.with_stages(DOMAIN, adapter=adapter).plan()
    folder = finish(first).path
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


LORA_CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("adapter", "config", "told"),
    [
        (LORA, LORA_CONFIG | {"r": 8}, "r is 4 here and 8 there"),
        (LORA, LORA_CONFIG | {"use_dora": True}, "kind is lora here and dora there"),
        (LORA, LORA_CONFIG | {"use_rslora": True}, "rslora is False here and True there"),
        (LORA, LORA_CONFIG | {"lora_alpha": 8}, "alpha is 32.0 here and 8 there"),
        (LORA, LORA_CONFIG | {"target_modules": ["q_proj"]}, "targets is all-linear here and q_proj there"),
        (LORA, {"peft_type": "IA3"}, "kind is lora here and ia3 there"),
        ({"kind": "prompt"}, {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8}, "tokens is 16 here and 8 there"),
        ({"kind": "bottleneck"}, {"peft_type": "BOTTLENECK", "size": 8}, "size is 64 here and 8 there"),
    ],
)
def test_another_adapter_than_the_folders_is_told_with_what_differs(house, adapter, config, told):
    folder = made(house, adapter, config)
    with pytest.raises(UserError, match=r"stages\.task\.adapter: this stage begins from an adapter") as error:
        house.with_stages(TASK | {"from": folder}, adapter=adapter).plan()
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("adapter", "config"),
    [
        (LORA | {"bits": 4, "lr_ratio": 16.0}, LORA_CONFIG),  # how it is trained may change
        ({"kind": "dora", "r": 4}, LORA_CONFIG | {"use_dora": True}),
        ({"kind": "ia3"}, {"peft_type": "IA3"}),
        ({"kind": "prefix"}, {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 16}),
        ({"kind": "bottleneck"}, {"peft_type": "BOTTLENECK", "size": 64}),
    ],
)
def test_the_same_adapter_goes_on_from_its_folder(house, adapter, config):
    folder = made(house, adapter, config)
    (stage,) = house.with_stages(TASK | {"from": folder}, adapter=adapter).plan()
    assert str(stage.origin.adapter) == folder and kind_in(stage.origin.adapter) == adapter["kind"]


def test_layers_written_one_by_one_are_all_layers(house):
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    folder = made(house, LORA, LORA_CONFIG | {"target_modules": [f"model.layers.0.{name}" for name in names]})
    assert house.with_stages(TASK | {"from": folder}, adapter=LORA).plan()


@pytest.mark.parametrize("kind", ["prefix", "prompt", "bottleneck"])
def test_what_works_beside_the_weights_is_not_merged_first(house, kind):
    stages = house.with_stages(DOMAIN, TASK | {"merge_first": True}, adapter=kind)
    with pytest.raises(UserError, match=rf"stages\.task\.merge_first: .* it is of kind {kind}, which works beside"):
        stages.plan()


@pytest.mark.parametrize("key", ["alpha", "lr_ratio", "bits"])
def test_how_an_earlier_stage_trained_the_adapter_may_change_and_what_it_is_may_not(house, key):
    value = {"alpha": 8.0, "lr_ratio": 4.0, "bits": 4}[key]
    house = house.with_stages(DOMAIN, TASK | {"adapter": LORA | {key: value}}, adapter=LORA)
    if key == "alpha":
        with pytest.raises(UserError, match="alpha is 8.0 here and 32.0 there"):
            house.plan()
    else:
        assert house.plan()[1].adapter != house.plan()[0].adapter


@pytest.mark.parametrize("kind", ["ia3", "bottleneck"])
def test_a_model_without_places_for_the_adapter_is_told(house, kind):
    house = with_config(house, model_type="mamba", architectures=["MambaForCausalLM"], hidden_size=32)
    message = refused(house.with_stages(TASK, adapter=kind), stages__task__packing=False)
    assert "adapter.kind" in message and "mamba models" in message and "such as lora" in message


def test_learned_tokens_take_positions_from_the_records(house):
    (stage,) = house.with_stages(TASK, adapter="prompt").plan()
    assert stage.max_length == 128 - 16
    with pytest.raises(UserError, match="max_length 128 is above the 112 positions of base beside the adapter's 16"):
        house.with_stages(TASK | {"max_length": 128}, adapter="prompt").plan()


def test_learned_tokens_have_to_stay_in_reach(house):
    house = with_config(house, model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=64)
    assert "reaches back 64 tokens, less than max_length and the learned 16" in refused(
        house.with_stages(TASK, adapter="prefix")
    )


def test_a_prefix_and_layers_computed_again_do_not_go_together(house):
    stages = house.with_stages(TASK | {"gradient_checkpointing": True}, adapter="prefix")
    assert "stages.task.gradient_checkpointing: a layer that is computed again has lost the prefix" in refused(stages)


@pytest.mark.parametrize(
    ("adapter", "stage", "cluster", "told"),
    [
        ({"lr_ratio": 16.0}, {"optimizer": "muon"}, {}, "adapter.lr_ratio: muon gives all matrices"),
        ({"lr_ratio": 16.0}, {"optimizer": "adafactor"}, {}, "adapter.lr_ratio: adafactor's steps are relative"),
        (
            {"lr_ratio": 16.0},
            {},
            {"zero": 2, "gpus_per_worker": 1, "offload": True},
            "adapter.lr_ratio: an offloaded optimizer has one rate for all weights",
        ),
        ({"bits": 4}, {}, {"zero": 3}, "adapter.bits: ZeRO 3 shares out the weights as they are loaded"),
    ],
)
def test_settings_that_do_not_go_together_are_told(house, adapter, stage, cluster, told):
    with pytest.raises(UserError) as error:
        house.with_stages(TASK | stage, adapter=LORA | adapter, cluster=cluster).recipe()
    assert told in str(error.value)


def test_dora_over_eight_bits_is_refused_with_the_reason(house):
    with pytest.raises(UserError, match="adapter: dora works with bits: 4: with 8 PEFT loses the scales"):
        house.with_stages(TASK, adapter={"kind": "dora", "bits": 8}).recipe()
