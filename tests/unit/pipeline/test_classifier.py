"""What is checked of a classify stage before any worker starts."""

from __future__ import annotations

from typing import Any

import pytest
from small_house import House

from fettle.errors import UserError
from fettle.pipeline.prepare import prepare

SORT = {"name": "sort", "kind": "classify", "data": "sorted.csv", "heldout": {"fraction": 0.2}}
LORA = {"kind": "lora", "r": 4}


@pytest.fixture
def texts(house: House) -> House:
    rows = [f"text {n},{'even' if n % 2 == 0 else 'odd'}" for n in range(20)]
    (house.folder / "sorted.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return house


def prepared(house: House) -> Any:
    return prepare(house.recipe(), house.plan(), house.out / "tokens")


def test_labels_are_those_of_the_data_sorted(texts):
    (job,), _ = prepared(texts.with_stages(SORT))
    assert job.labels == ("even", "odd")


@pytest.mark.parametrize("keys", [{"unfreeze": "head"}, {"unfreeze": 2}, {"layer_decay": 0.5}])
def test_freezing_is_refused_with_an_adapter_which_freezes_every_layer(texts, keys):
    (key,) = keys
    with pytest.raises(UserError, match=rf"stages\.sort\.{key}: {key} has no effect with an adapter"):
        prepared(texts.with_stages(SORT | keys, adapter=LORA))


def test_rates_by_layer_are_refused_with_an_offloaded_optimizer(texts):
    cluster = {"workers": 1, "zero": 2, "offload": True, "gpus_per_worker": 1}
    with pytest.raises(UserError, match=r"stages\.sort\.layer_decay: .* an offloaded optimizer lacks"):
        prepared(texts.with_stages(SORT | {"layer_decay": 0.5, "cluster": cluster}))


def test_a_decay_over_layers_is_refused_where_the_head_alone_is_trained(texts):
    with pytest.raises(UserError, match=r"stages\.sort\.layer_decay: layer_decay has no effect with unfreeze: head"):
        prepared(texts.with_stages(SORT | {"unfreeze": "head", "layer_decay": 0.5}))


def test_more_layers_than_the_model_has_are_refused(texts):
    with pytest.raises(UserError, match=r"stages\.sort\.unfreeze: the model has 32 layers, fewer than 33"):
        prepared(texts.with_stages(SORT | {"unfreeze": 33}))


def test_fewer_steps_than_parts_of_gradual_unfreezing_are_refused(texts):
    with pytest.raises(UserError, match=r"stages\.sort\.max_steps: 4 steps are too few to unfreeze 4 layers"):
        prepared(texts.with_stages(SORT | {"unfreeze": 4, "max_steps": 4}))


@pytest.mark.parametrize("keys", [{"cluster": {"workers": 1, "zero": 3}}, {"adapter": {"kind": "bottleneck"}}])
def test_an_adapter_whose_rows_cannot_be_carried_over_does_not_go_on_with_other_labels(texts, keys):
    more = (texts.folder / "sorted.csv").read_text() + "text 20,other\n"
    (texts.folder / "more.csv").write_text(more)
    again = SORT | {"name": "again", "from": "sort", "data": "more.csv"}
    with pytest.raises(UserError, match=r"stages\.again\.from: the adapter .* other labels"):
        prepared(texts.with_stages(SORT, again, **{"adapter": LORA} | keys))


@pytest.mark.parametrize("adapter", ["full", LORA])
def test_a_classifier_goes_on_with_other_labels(texts, adapter):
    more = (texts.folder / "sorted.csv").read_text() + "text 20,other\n"
    (texts.folder / "more.csv").write_text(more)
    again = SORT | {"name": "again", "from": "sort", "data": "more.csv"}
    (_, job), _ = prepared(texts.with_stages(SORT, again, adapter=adapter))
    assert job.labels == ("even", "odd", "other")


def test_streaming_is_refused(texts):
    with pytest.raises(UserError, match="streaming works with pretrain and sft"):
        texts.with_stages(SORT | {"streaming": True, "max_steps": 4}).recipe()


def test_no_layers_to_unfreeze_is_refused(texts):
    with pytest.raises(UserError, match=r"stages\.sort\.unfreeze"):
        texts.with_stages(SORT | {"unfreeze": 0}).recipe()
