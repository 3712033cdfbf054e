"""What Ray Tune is told: how many trials at a time, what is left of a sweep, which search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, PopulationBasedTraining

from fettle.errors import DoesNotFit
from fettle.recipe import Recipe
from fettle.train.checkpoint import Fence
from fettle.tune.checks import check_sweep, own_stages
from fettle.tune.ledger import Ledger, Row
from fettle.tune.search import _left, _optuna, _scheduler, at_a_time, takes
from fettle.tune.space import Settings, settings_of
from fettle.tune.study import Sweep, trial_id

LR = "stages.answer.lr"


def study(recipe: Recipe, out: Path) -> Sweep:
    Ledger(out).folder.mkdir(parents=True, exist_ok=True)
    return Sweep(recipe, out, Fence(out / ".epoch", "test"), {}, 2)


def over(out: Path, settings: Settings, score: float, member: str | None = None, state: str = "done") -> None:
    Ledger(out).write(Row(trial_id(settings, member), settings, settings, state, score))


@pytest.mark.parametrize(
    ("trial", "there", "count"),
    [((2, 0), (8, 0), 4), ((2, 0), (5, 0), 2), ((1, 0.25), (16, 2), 8), ((4, 1), (64, 2), 2), ((1, 1), (1, 8), 1)],
)
def test_as_many_trials_run_at_a_time_as_there_is_room_for(swept, trial, there, count):
    assert at_a_time(trial, there, swept()) == count


def test_no_room_for_a_trial_says_what_is_lacking(swept):
    with pytest.raises(DoesNotFit, match="a trial takes 4 CPUs and 2 GPUs, and the cluster has 8 and 1") as raised:
        at_a_time((4, 2), (8, 1), swept())
    assert "more GPUs" in str(raised.value.fix)


def test_fewer_at_a_time_may_be_asked_for(swept):
    assert at_a_time((1, 0), (16, 0), swept(concurrent=3)) == 3


def test_a_trial_takes_what_its_workers_take_and_its_share_of_a_gpu(swept, tmp_path):
    recipe = swept(top={"cluster": {"workers": 3, "cpus_per_worker": 2}})
    own = own_stages(check_sweep(recipe, tmp_path / "out")[1])
    assert takes(own, recipe.sweep) == (6, 0)
    shared = swept(top={"cluster": {"gpus_per_worker": 1, "precision": "fp32"}}, gpus_per_trial=0.5)
    own = own_stages(check_sweep(shared, tmp_path / "out")[1])
    assert takes(own, shared.sweep) == (1, 0.5)


def test_trials_that_are_over_are_not_tried_again(swept, tmp_path):
    recipe = swept(trials=3)
    settings = settings_of(recipe, recipe.sweep)
    sweep = study(recipe, tmp_path)
    over(tmp_path, settings[1], 2.0)
    assert [one[LR] for one in _left(sweep, settings, _known(tmp_path))] == [settings[0][LR], settings[2][LR]]


def test_asha_is_told_first_what_it_was_told_before(swept, tmp_path):
    """Else it would not know how good the others were that it compares the rest with."""
    recipe = swept(search="asha", trials=3)
    settings = settings_of(recipe, recipe.sweep)
    sweep = study(recipe, tmp_path)
    over(tmp_path, settings[2], 2.0, state="stopped")
    found = [one[LR] for one in _left(sweep, settings, _known(tmp_path))]
    assert found == [settings[number][LR] for number in (2, 0, 1)]
    for one in settings:
        over(tmp_path, one, 2.0)
    assert _left(sweep, settings, _known(tmp_path)) == []


def test_a_member_of_a_population_goes_on_with_the_settings_it_has_now(swept, tmp_path):
    recipe = swept(search="pbt", trials=4)
    settings = settings_of(recipe, recipe.sweep)
    Ledger(tmp_path).folder.mkdir()
    Ledger(tmp_path).write(Row("member-02", {LR: 0.005}, settings[1]))
    found = _left(study(recipe, tmp_path), settings, _known(tmp_path))
    assert {one["member"]: one[LR] for one in found}["member-02"] == 0.005


def test_optuna_knows_the_trials_that_are_over_and_begins_with_the_others(swept, tmp_path):
    recipe = swept(search="optuna", trials=6, space={LR: {"loguniform": [1e-4, 1e-2]}, "seed": {"choice": [5, 7]}})
    sweep = study(recipe, tmp_path)
    over(tmp_path, {LR: 0.003, "seed": 7}, 1.5)
    Ledger(tmp_path).write(Row("begun", {LR: 0.001, "seed": 5}, {}))
    searcher = _optuna(sweep)
    (finished,) = [one for one in searcher._ot_study.trials if one.value is not None]
    assert (finished.params, finished.value) == ({f"trial/{LR}": 0.003, "trial/seed": 1}, 1.5)
    assert searcher.suggest("next") == {"trial": {LR: 0.001, "seed": 0}}


def test_each_search_has_its_scheduler(swept):
    asha, median, pbt = (_scheduler(swept(search=name).sweep) for name in ("asha", "median", "pbt"))
    assert isinstance(asha, AsyncHyperBandScheduler) and isinstance(median, MedianStoppingRule)
    assert isinstance(pbt, PopulationBasedTraining)


def test_pbt_stays_within_the_bounds(swept):
    """Tune multiplies by 1.2 wherever that leads."""
    explore: Callable[..., dict[str, object]] = _scheduler(swept(search="pbt").sweep)._custom_explore_fn
    assert explore({"trial": {LR: 0.012, "member": "member-01"}}) == {"trial": {LR: 0.01, "member": "member-01"}}


def _known(out: Path) -> dict[str, Row]:
    return {row.id: row for row in Ledger(out).rows()}


def test_who_takes_over_anothers_weights_keeps_its_own_name(swept, tmp_path):
    """Tune hands it the other's whole configuration."""
    sweep = study(swept(search="pbt"), tmp_path)
    assert sweep.own({LR: 0.1, "member": "member-01"}, "00001")["member"] == "member-01"
    assert sweep.own({LR: 0.2, "member": "member-02"}, "00001") == {LR: 0.2, "member": "member-01"}
