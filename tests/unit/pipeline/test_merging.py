"""A merge as a stage: what it begins from, what of that is refused, what it is to later stages and to the report."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from small_house import House, finish, write_base

from fettle.artifact import new_artifact
from fettle.errors import UserError
from fettle.pipeline.page import write_report
from fettle.pipeline.planned import PlannedMerge
from fettle.pipeline.prepare import prepare
from fettle.pipeline.report import make_report, table

LORA = {"kind": "lora", "r": 4}
DOMAIN = {"name": "domain", "kind": "pretrain", "data": "corpus.txt"}
TASK = {"name": "task", "kind": "sft", "data": "chat.jsonl", "from": "domain"}
OTHER = {"name": "other", "kind": "sft", "data": "general.jsonl", "from": "domain"}
MERGE = {"name": "whole", "kind": "merge"}
BOTH = MERGE | {"adapters": ["task", "other"]}
LAST = {"name": "last", "kind": "sft", "data": "general.jsonl", "adapter": "full"}
NOTHING = {
    "seconds": 1.0,
    "steps": 0,
    "tokens": {"loss_bearing": 0, "all": 0},
    "loss": dict.fromkeys(("first", "last", "heldout_before", "heldout_after")),
}


@pytest.fixture
def two(house: House) -> House:
    """A recipe of two adapters over the base, and both merged."""
    return house.with_stages(
        DOMAIN | {"adapter": "full"}, TASK | {"adapter": LORA}, OTHER | {"adapter": LORA | {"r": 8}}, BOTH
    )


def refused(house: House, **overrides: object) -> str:
    with pytest.raises(UserError) as told:
        house.plan(**overrides)
    return str(told.value).replace(f"{house.folder}/", "")


def foreign(house: House, base: str, name: str = "peft", **config: Any) -> Path:
    """An adapter that fettle did not make."""
    folder = house.folder / name
    folder.mkdir()
    told = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": base} | config
    (folder / "adapter_config.json").write_text(json.dumps(told))
    save_file({"weight": np.ones((2, 2), np.float32)}, folder / "adapter_model.safetensors")
    return folder


def test_a_merge_takes_the_nearest_earlier_adapter_by_default_and_yields_full_weights(house):
    first, second, third = house.with_stages(DOMAIN, MERGE, LAST, adapter=LORA).plan()
    assert isinstance(second, PlannedMerge) and second.adapters == ((first.artifact, 1.0),)
    assert (third.origin.base, third.origin.root, third.origin.adapter) == (
        second.artifact,
        house.folder / "base",
        None,
    )


def test_several_adapters_of_one_base_are_merged_with_their_weights(two):
    _, task, other, merge = two.plan(stages__whole__adapters__1__weight=0.5)
    assert merge.adapters == ((task.artifact, 1.0), (other.artifact, 0.5))


def test_a_merges_job_has_everything_resolved_and_travels_to_a_worker(two):
    overrides = {"stages__whole__method": "dare_ties", "seed": 3}
    jobs, _ = prepare(two.recipe(**overrides), two.plan(**overrides), two.out / "tokens")
    job = pickle.loads(pickle.dumps(jobs[-1]))
    assert [one.name for one in jobs] == ["domain", "task", "other", "whole"]
    assert (job.method, job.density, job.seed, job.base) == ("dare_ties", 0.5, 3, two.plan(**overrides)[0].artifact)
    assert len(job.end_ids) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method", "ties"),
        ("method", "dare_linear"),
        ("adapters", ["other", "task"]),
        ("adapters", ["task", {"from": "other", "weight": 0.5}]),
    ],
)
def test_what_is_merged_and_how_makes_another_merge(two, key, value):
    assert two.fingerprints()[-1] != two.fingerprints(**{f"stages__whole__{key}": value})[-1]


def test_adapters_trained_otherwise_make_another_merge(two):
    assert two.fingerprints()[-1] != two.fingerprints(stages__other__lr=1e-5)[-1]


def test_the_recipes_seed_and_the_density_count_where_they_have_an_effect(two, house):
    shutil.copytree(finish(house.plan(adapter=LORA)[0]).path, house.folder / "one")
    shutil.copytree(house.folder / "one", house.folder / "two")
    for name, rank in (("one", 4), ("two", 8)):
        (house.folder / name / "adapter_config.json").write_text(json.dumps({"r": rank, "peft_type": "LORA"}))
    alone = house.with_stages(MERGE | {"adapters": ["one", "two"]})
    plain, ties = alone.fingerprints(), alone.fingerprints(stages__whole__method="ties")
    dare = {"stages__whole__method": "dare_ties"}
    assert alone.fingerprints(seed=1) == plain and alone.fingerprints(stages__whole__method="linear") == plain
    assert alone.fingerprints(seed=1, stages__whole__method="ties") == ties
    assert alone.fingerprints(stages__whole__method="ties", stages__whole__density=0.5) == ties
    assert alone.fingerprints(stages__whole__method="ties", stages__whole__density=0.3) != ties
    assert alone.fingerprints(seed=1, **dare) != alone.fingerprints(**dare)


def test_workers_change_nothing_in_a_merge(house):
    house = house.with_stages(DOMAIN, MERGE, adapter=LORA)
    assert house.fingerprints()[1] == house.fingerprints(stages__whole__cluster={"workers": 2})[1]


def test_full_weights_are_nothing_to_merge(house):
    assert "stages.whole.from: there is nothing to merge: what this begins from is no adapter" in refused(
        house.with_stages(DOMAIN, MERGE)
    )


def test_adapters_of_two_bases_are_refused_with_the_line_of_the_second(house):
    other = write_base(house.folder / "small")
    (other / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 64}')
    stages = (DOMAIN, OTHER | {"base": "small", "from": None}, MERGE | {"adapters": ["domain", "other"]})
    message = refused(house.with_stages(*stages, adapter=LORA))
    assert "stages.whole.adapters.1.from: adapters of two bases cannot be combined: base and small" in message


def test_the_same_base_in_two_places_is_one_base(house):
    shutil.copytree(house.folder / "base", house.folder / "copy")
    stages = (DOMAIN, OTHER | {"base": "copy", "from": None}, MERGE | {"adapters": ["domain", "other"]})
    assert house.with_stages(*stages, adapter=LORA).plan()


def test_a_reward_model_is_no_adapter_of_a_language_model(house):
    taste = {"name": "taste", "kind": "reward", "data": "pairs.jsonl", "from": "domain"}
    (house.folder / "pairs.jsonl").write_text("{}")
    message = refused(house.with_stages(DOMAIN, taste, MERGE | {"from": "taste"}, adapter=LORA))
    assert "stages.whole.from: 'taste' yields no language model: it is of kind reward" in message


def test_an_adapter_that_fettle_did_not_make_is_merged_into_the_base_it_names(house):
    folder = foreign(house, str(house.folder / "base"))
    (merge,) = house.with_stages(MERGE | {"from": "peft"}).plan()
    assert (merge.origin.base, merge.adapters) == (house.folder / "base", ((folder, 1.0),))


def test_an_adapter_that_names_no_base_or_one_that_is_gone_is_refused(house):
    foreign(house, "")
    foreign(house, "/gone/away", name="lost")
    assert "adapter_config.json names no base" in refused(house.with_stages(MERGE | {"from": "peft"}))
    message = refused(house.with_stages(MERGE | {"from": "lost"}))
    assert "stages.whole.from: the base of lost: no model '/gone/away'" in message


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "it is of kind prompt"),
        ({"task_type": "SEQ_CLS"}, "it has a head of its own"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_before_anything_starts(house, config, reason):
    foreign(house, str(house.folder / "base"), **config)
    assert f"stages.whole.from: this adapter cannot be merged: {reason}" in refused(
        house.with_stages(MERGE | {"from": "peft"})
    )


def test_adapters_trained_with_two_chat_templates_are_combined_only_under_the_recipes(house):
    for name in ("one", "two"):
        (foreign(house, str(house.folder / "base"), name=name) / "chat_template.jinja").write_text(f"{{{{ {name} }}}}")
    house = house.with_stages(MERGE | {"adapters": ["one", "two"]})
    assert "adapters of two chat templates cannot be combined" in refused(house)
    assert house.plan(chat_template="chatml")


def test_a_stage_without_losses_is_reported_with_dashes_and_no_curve(house):
    house = house.with_stages(DOMAIN, MERGE, adapter=LORA)
    stages = house.plan()
    finish(stages[0])
    with new_artifact(stages[1].artifact, kind="model", name="whole", fingerprint="f", metrics=NOTHING):
        pass
    report = make_report(house.recipe(), house.out, stages, set(), 1.0)
    write_report(report, stages)
    text = io.StringIO()
    Console(file=text, width=120).print(table(report))
    assert text.getvalue().splitlines()[-1].split() == ["whole", "merge", "–", "–", "1", "s", "–", "–"]
    assert (house.out / "report.html").read_text().count("<figure>") == 1
