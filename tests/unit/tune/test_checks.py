"""Sweeps that cannot be, told before anything starts, and what trials share."""

from __future__ import annotations

import pytest

from fettle.errors import UserError
from fettle.tune.checks import check_sweep, own_stages

LR = "stages.answer.lr"


def test_stages_that_no_key_touches_are_not_each_trials_own(swept, tmp_path):
    settings, trials = check_sweep(swept(), tmp_path / "out")
    assert len(settings) == 5
    assert [stage.spec.name for stage in own_stages(trials)] == ["answer"]


def test_a_key_of_all_stages_makes_all_of_them_each_trials_own(swept, tmp_path):
    _, trials = check_sweep(swept(trials=2, space={"adapter.r": {"choice": [2, 4]}}), tmp_path / "out")
    assert [stage.spec.name for stage in own_stages(trials)] == ["read", "answer"]


REWARDED = {"kind": "rl", "data": None, "max_steps": None, "prompts": "chat.jsonl", "iterations": 2}


@pytest.mark.parametrize(
    ("sweep", "said", "field"),
    [
        ({"space": {"stages.answr.lr": {"choice": [1, 2]}}}, "did you mean 'answer'", "sweep.space.stages.answr.lr"),
        ({"space": {"stages.answer.lrr": {"choice": [1, 2]}}}, "did you mean 'lr'", "sweep.space.stages.answer.lrr"),
        ({"space": {LR: {"uniform": [-1, 1]}}}, f"with {LR}: -1.0", f"sweep.space.{LR}"),
        ({"trials": 2, "space": {"stages.answer.checkpoint.every": {"choice": [1, 2]}}}, "changes nothing", None),
        ({"trials": 2, "space": {LR: {"choice": [1e-3, 1e-4]}}, "metric": {"stage": "read"}}, "changes nothing", None),
        ({"metric": {"stage": "answr"}}, "no stage 'answr'", "sweep.metric.stage"),
        ({"metric": {"name": "loss.heldout"}}, "did you mean 'loss.heldout_after'", "sweep.metric.name"),
        ({"metric": {"name": "evaluate.0.rouge1"}}, "evaluate has 0 entries", "sweep.metric.name"),
        ({"search": "asha", "metric": {"name": "loss.last"}}, "not known after a round", "sweep.metric.name"),
        ({"search": "asha", "rounds": 40}, "fewer than 40 rounds", "sweep.rounds"),
        ({"search": "asha", "space": {"adapter.r": {"int": [2, 9]}}}, "the space changes read too", "sweep.search"),
        ({"search": "pbt", "space": {"stages.answer.batch.sequences": {"int": [2, 9]}}}, "in the middle", None),
        ({"gpus_per_trial": 0.5}, "a share of a GPU", "sweep.gpus_per_trial"),
        ({"search": "optuna", "space": {LR: {"choice": [1e-3]}}}, "nothing to compare", "sweep.space"),
    ],
)
def test_a_sweep_that_cannot_be_names_its_key(swept, tmp_path, sweep, said, field):
    with pytest.raises(UserError, match=said) as raised:
        check_sweep(swept(**sweep), tmp_path / "out")
    assert field is None or raised.value.field == field
    assert raised.value.line is not None


def test_a_recipe_without_a_sweep_is_told_how_one_looks(swept, tmp_path):
    with pytest.raises(UserError, match="no `sweep`"):
        check_sweep(swept(top={"sweep": None}), tmp_path / "out")


def test_a_metric_of_evaluate_names_a_score_that_is_measured(swept, tmp_path):
    evaluate = {"evaluate": [{"kind": "generate", "data": "chat.jsonl", "metrics": ["rouge"]}]}
    check_sweep(swept(top=evaluate, metric={"name": "evaluate.0.rougeL", "mode": "max"}), tmp_path / "out")
    with pytest.raises(UserError, match="no score 'f1'"):
        check_sweep(swept(top=evaluate, metric={"name": "evaluate.0.f1", "mode": "max"}), tmp_path / "out")
    with pytest.raises(UserError, match="of a finished model"):
        check_sweep(swept(top=evaluate, search="asha", metric={"name": "evaluate.0.rougeL"}), tmp_path / "out")


def test_keys_of_reinforcement_learning_are_searched_in_whole_stages_alone(swept, tmp_path):
    stage = {**REWARDED, "algorithm": "grpo", "rewards": [{"builtin": "length", "max_tokens": 8}]}
    stage = {key: value for key, value in stage.items() if value is not None}
    space = {
        "stages.answer.kl.coef": {"choice": [0.0, 0.1]},
        "stages.answer.rollout.samples_per_prompt": {"choice": [2, 4]},
    }
    told = {"metric": {"name": "reward.heldout_after", "mode": "max"}, "space": space}
    top = {"stages": [{"name": "answer", **stage}]}
    recipe = swept(top=top, search="grid", trials=None, **told)
    settings, trials = check_sweep(recipe, tmp_path / "out")
    assert len({stages[-1].fingerprint for stages in trials}) == len(settings) == 4
    with pytest.raises(UserError, match="not trained in rounds"):
        check_sweep(
            swept(top={"stages": [{"name": "answer", **stage}]}, search="asha", trials=3, **told), tmp_path / "out"
        )
