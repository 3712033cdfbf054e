"""`optimizer`, `schedule`, `early_stop`: what the kinds' keys are, and what is told of one that has no effect."""

from __future__ import annotations

import pytest
from test_load import ONE, stage

from fettle.recipe.optimizer import EarlyStopSpec, OptimizerSpec, ScheduleSpec

KINDS = ["adamw", "adam", "sgd", "rmsprop", "adafactor", "muon"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_stands_for_the_kind_of_an_optimizer(load, kind):
    assert load(stage(f"optimizer: {kind}")).stages[0].optimizer == OptimizerSpec(kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_is_read_back_as_it_was_written(kind):
    spec = OptimizerSpec(kind=kind, weight_decay=0.1)
    assert OptimizerSpec.model_validate(spec.model_dump()) == spec


def test_a_default_that_is_spelt_out_is_the_same_setting():
    assert OptimizerSpec(kind="sgd", momentum=0.9) == OptimizerSpec(kind="sgd")
    assert ScheduleSpec(floor=0.1) == ScheduleSpec()


def test_each_kind_has_defaults_for_its_own_keys_alone():
    sgd, muon = OptimizerSpec(kind="sgd"), OptimizerSpec(kind="muon")
    assert (sgd.momentum, sgd.beta1, sgd.beta2, sgd.eps, sgd.smoothing) == (0.9, None, None, None, None)
    assert (muon.momentum, muon.beta1, muon.beta2, muon.eps, muon.smoothing) == (0.95, 0.9, 0.95, 1e-8, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "optimizer: {kind: sgd, beta2: 0.9}",
            "optimizer: beta2 has no effect with sgd; it belongs to adamw, adamw_8bit, adam, muon",
        ),
        ("optimizer: {momentum: 0.9}", "momentum has no effect with adamw; it belongs to sgd, rmsprop, muon"),
        ("optimizer: {kind: adam, smoothing: 0.9}", "smoothing has no effect with adam; it belongs to rmsprop"),
        (
            "optimizer: {kind: adafactor, eps: 1e-8}",
            "eps has no effect with adafactor; it belongs to adamw, adamw_8bit, adam, rmsprop, muon",
        ),
        (
            "schedule: {kind: constant, floor: 0.1}",
            "schedule: floor has no effect with constant; it belongs to cosine, linear, wsd",
        ),
        ("schedule: {decay: 0.1}", "decay has no effect with cosine; it belongs to wsd"),
        (
            "schedule: {kind: wsd, warmup: 0.6, decay: 0.5}",
            "warmup 0.6 and decay 0.5 are more than all the steps",
        ),
        ("optimizer: adamv", "'adafactor' or 'muon', not 'adamv'"),
    ],
)
def test_a_key_without_effect_is_told_with_the_kinds_it_belongs_to(told, line, message):
    assert told(stage(line)).startswith("recipe.yaml:6: stages.task.")
    assert message in told(stage(line))


def test_measuring_for_the_first_time_at_the_end_stops_nothing_early(told, load):
    assert "early_stop has no effect" in told(stage("max_steps: 10", "early_stop: {every: 10}"))
    assert load(stage("max_steps: 10", "early_stop: {every: 9}")).stages[0].early_stop == EarlyStopSpec(every=9)


@pytest.mark.parametrize("kind", ["adafactor", "muon"])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_an_optimizer_of_whole_matrices_is_refused_where_zero_shares_them_out(told, kind, zero):
    said = told(stage(f"optimizer: {kind}", f"cluster: {{workers: 2, zero: {zero}}}"))
    assert said.startswith("recipe.yaml:6: stages.task.optimizer")
    assert f"{kind} looks at whole matrices, and ZeRO {zero} shares them out in pieces" in said
    assert "zero: 0" in said


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_is_taken_without_zero(load, kind):
    load(ONE, stages__task__optimizer=kind, cluster={"workers": 2})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adamw"])
def test_only_adamw_is_offloaded(told, load, kind):
    cluster = {"zero": 2, "gpus_per_worker": 1, "offload": True}
    assert f"{kind} has no offloaded form" in told(ONE, stages__task__optimizer=kind, cluster=cluster)
    load(ONE, stages__task__optimizer="adamw", cluster=cluster)


def test_noise_on_the_embeddings_is_for_sft(told, load):
    assert load(stage("neftune: 5")).stages[0].neftune == 5
    assert "unknown key" in told(stage("neftune: 5.0").replace("kind: sft", "kind: pretrain"))
