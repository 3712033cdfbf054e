"""What is checked, before any worker starts, of a stage that trains some of a model's layers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from small_house import House

from fettle.errors import UserError
from fettle.pipeline.prepare import prepare

TASK = {"name": "task", "kind": "sft", "data": "chat.jsonl", "heldout": {"fraction": 0.2}}
SORT = {"name": "sort", "kind": "classify", "data": "sorted.csv", "heldout": {"fraction": 0.2}}


def prepared(house: House) -> Any:
    return prepare(house.recipe(), house.plan(), house.out / "tokens")


def test_as_many_layers_as_the_model_has_may_be_trained(house):
    (job,), _ = prepared(house.with_stages(TASK, adapter={"kind": "freeze", "layers": 32}))
    assert job.adapter.layers == 32


@pytest.mark.parametrize(("kind", "most"), [("freeze", 32), ("lisa", 31)])
def test_more_layers_than_the_model_has_are_refused(house, kind, most):
    with pytest.raises(UserError, match=r"adapter\.layers: the model has 32 layers, fewer than 33") as caught:
        prepared(house.with_stages(TASK, adapter={"kind": kind, "layers": 33}))
    assert caught.value.expected == f"1 to {most}"


def test_all_layers_leave_lisa_nothing_to_choose(house):
    with pytest.raises(UserError, match=r"stages\.task\.adapter\.layers: .* there is nothing to choose"):
        prepared(house.with_stages(TASK | {"adapter": {"kind": "lisa", "layers": 32}}))


@pytest.mark.parametrize("kind", ["freeze", "lisa"])
@pytest.mark.parametrize("keys", [{"unfreeze": "head"}, {"unfreeze": 2}, {"layer_decay": 0.5}])
def test_two_ways_to_say_which_layers_are_trained_are_refused(house, kind, keys):
    rows = [f"text {n},{'even' if n % 2 == 0 else 'odd'}" for n in range(20)]
    (house.folder / "sorted.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (key,) = keys
    with pytest.raises(UserError, match=rf"stages\.sort\.{key}: {key} and adapter: {kind} both say which layers"):
        prepared(house.with_stages(SORT | keys, adapter=kind))


def test_layers_of_an_adapter_that_goes_on_are_refused(house):
    lora = {"kind": "lora", "r": 4}
    first, second = TASK | {"adapter": lora}, TASK | {"name": "more", "adapter": "freeze"}
    with pytest.raises(UserError, match=r"stages\.more\.adapter: .* asks for another one"):
        prepared(house.with_stages(first, second))


def test_two_stacks_of_layers_are_refused(house):
    config = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "num_layers": 4}
    (house.folder / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"adapter\.kind: freeze counts layers in one stack"):
        prepared(house.with_stages(TASK, adapter="freeze"))
