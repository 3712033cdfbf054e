"""`adapter: freeze` and `adapter: lisa`, and `precision: fp16`: with what they work, and what is told where not."""

from __future__ import annotations

import pytest
from test_load import ONE, stage

from fettle.recipe.adapter import AdapterSpec

LISA = "adapter: {kind: lisa, layers: 1, every: 5}"


@pytest.mark.parametrize(("kind", "keys"), [("freeze", {"layers": 2}), ("lisa", {"layers": 2, "every": 20})])
def test_a_word_stands_for_the_kind_with_its_defaults(load, kind, keys):
    adapter = load(stage(f"adapter: {kind}")).stages[0].adapter
    assert adapter == AdapterSpec(kind=kind, **keys)
    assert not adapter.is_beside


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("adapter: {kind: freeze, every: 5}", "every has no effect with freeze; it belongs to lisa"),
        ("adapter: {kind: lora, layers: 2}", "layers has no effect with lora; it belongs to freeze, lisa"),
        ("adapter: {kind: lisa, r: 4}", "r has no effect with lisa"),
    ],
)
def test_a_key_of_another_kind_is_told(told, line, message):
    assert message in told(stage(line))


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_lisa_is_refused_where_zero_shares_out_what_is_trained(told, zero):
    said = told(stage(LISA, f"cluster: {{workers: 2, zero: {zero}}}"))
    assert said.startswith("recipe.yaml:6: stages.task.adapter.kind")
    assert f"ZeRO {zero} shares out, once and for all, the weights that are trained at the start" in said
    assert "zero: 0" in said


def test_a_recipes_own_adapter_is_told_where_it_stands(told):
    said = told(ONE + "cluster: {workers: 2, zero: 2}\nadapter: lisa\n")
    assert said.startswith("recipe.yaml:7: adapter")


def test_lisa_works_with_several_workers_without_zero(load):
    load(stage(LISA, "cluster: {workers: 2, zero: 0}"))


def test_layers_that_would_never_change_are_refused(told, load):
    assert "lisa would choose layers every 5 steps, and the stage has 5" in told(stage(LISA, "max_steps: 5"))
    load(stage(LISA, "max_steps: 6"))


@pytest.mark.parametrize(
    "cluster",
    [{}, {"zero": 1}, {"zero": 2}, {"workers": 2, "zero": 1}, {"workers": 2, "zero": 2, "gpus_per_worker": 1}],
)
def test_fp16_works_where_overflows_are_seen_by_all(load, cluster):
    assert load(ONE, cluster=cluster | {"precision": "fp16"}).cluster.precision == "fp16"


@pytest.mark.parametrize("cluster", [{"zero": 3}, {"workers": 2, "zero": 3}, {"workers": 2}])
def test_fp16_is_refused_where_they_are_not(told, cluster):
    said = told(ONE, cluster=cluster | {"precision": "fp16"})
    assert "precision fp16 leaves out steps whose gradients overflow" in said
    assert "set zero: 2, or precision: bf16" in said


def test_fp16_is_refused_with_an_offloaded_optimizer(told):
    cluster = {"zero": 2, "gpus_per_worker": 1, "offload": True, "precision": "fp16"}
    assert "precision fp16 does not work with offload" in told(ONE, cluster=cluster)
