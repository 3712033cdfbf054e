"""What holds a stage to its base: `kl_to_base`, and `interpolate` of a merge; planned and checked, not trained."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from small_house import House

from fettle.errors import UserError
from fettle.pipeline.lineage import in_words
from fettle.pipeline.planned import PlannedMerge
from fettle.pipeline.prepare import prepare
from fettle.train.job import MergeJob, StageJob

DOMAIN = {"name": "domain", "kind": "pretrain", "data": "corpus.txt"}
TASK = {"name": "task", "kind": "sft", "data": "chat.jsonl", "from": "domain"}
BETWEEN = {"name": "between", "kind": "merge", "interpolate": {"data": "general.jsonl", "budget": 0.02}}
LORA = {"kind": "lora", "r": 4}


def refused(house: House, **overrides: Any) -> UserError:
    with pytest.raises(UserError) as told:
        prepare(house.recipe(**overrides), house.plan(**overrides), house.out)
    return told.value


def test_kl_to_base_makes_another_stage_and_its_absence_the_same_as_ever(house):
    before = house.fingerprints()
    one, other = (house.fingerprints(stages__domain__kl_to_base=coef) for coef in (0.1, 0.2))
    assert house.fingerprints() == before and len({before[0], one[0], other[0]}) == 3


def test_a_stage_is_held_to_the_untuned_model_and_not_to_what_it_began_from(house):
    house = house.with_stages(DOMAIN, TASK | {"kl_to_base": 0.1})
    job = prepare(house.recipe(), house.plan(), house.out)[0][-1]
    assert isinstance(job, StageJob) and job.near == house.folder / "base" != job.base


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"kind": "pretrain", "data": "corpus.txt", "objective": "masked"}, "which objective: masked does not predict"),
        ({"kind": "sft", "data": "chat.jsonl", "neftune": 5.0}, "neftune's noise would be measured as a distance"),
    ],
)
def test_what_kl_to_base_does_not_go_with_is_told(house, keys, why):
    assert why in str(refused(house.with_stages({"name": "one", "kl_to_base": 0.1} | keys)))


@pytest.mark.parametrize("adapter", ["full", LORA])
def test_full_weights_and_adapters_are_interpolated_towards_the_untuned_model(house, adapter):
    house = house.with_stages(DOMAIN, TASK, BETWEEN, adapter=adapter)
    planned = house.plan()[-1]
    job = prepare(house.recipe(), house.plan(), house.out)[0][-1]

    assert isinstance(planned, PlannedMerge) and isinstance(job, MergeJob) and job.search is not None
    assert len(job.adapters) == (0 if adapter == "full" else 1)
    assert (job.search.untuned, job.search.budget, job.search.steps) == (house.folder / "base", 0.02, 11)
    assert pickle.loads(pickle.dumps(job)).search.budget == 0.02  # it goes to a worker


@pytest.mark.parametrize(("key", "value"), [("budget", 0.03), ("steps", 5), ("limit", 4), ("data", "corpus.txt")])
def test_another_search_is_another_merge(house, key, value):
    house = house.with_stages(DOMAIN, TASK, BETWEEN, adapter=LORA)
    plain = house.with_stages(DOMAIN, TASK, {"name": "between", "kind": "merge"}, adapter=LORA)
    one = house.fingerprints()
    other = house.fingerprints(**{f"stages__between__interpolate__{key}": value})
    assert one[:2] == other[:2] == plain.fingerprints()[:2]
    assert len({one[2], other[2], plain.fingerprints()[2]}) == 3


def test_nothing_lies_between_the_untuned_model_and_itself(house):
    error = refused(house.with_stages(BETWEEN))
    assert "nothing between the untuned model and itself" in str(error) and error.field == "stages.between.from"


def test_a_probe_set_that_is_not_there_is_told_before_anything_is_trained(house):
    house = house.with_stages(DOMAIN, BETWEEN | {"interpolate": {"data": "missing.jsonl", "budget": 0.1}})
    assert refused(house).field == "stages.between.interpolate.data"


def test_a_merge_tells_where_its_weights_came_to_lie():

    told = {"alpha": 0.4125, "forgetting": 0.01953, "budget": 0.02, "loss": 0.75, "curve": []}
    assert in_words(told) == "0.412 of the way from the untuned weights: +0.0195 nats forgotten of 0.02 allowed"
