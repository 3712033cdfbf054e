"""What makes a stage another one, so that it is trained again, and what does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from small_house import House, finish

from fettle.pipeline import graph, planned
from fettle.recipe import load_recipe

ONE = {"name": "task", "kind": "sft", "data": "chat.jsonl"}


def changed(house: House, **overrides: object) -> list[bool]:
    """Of each stage: whether its fingerprint is another one with these overrides."""
    pairs = zip(house.fingerprints(), house.fingerprints(**overrides), strict=True)
    return [before != after for before, after in pairs]


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def test_the_same_recipe_has_the_same_fingerprints(house):
    assert house.fingerprints() == house.fingerprints()
    assert len(set(house.fingerprints())) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 1e-5),
        ("epochs", 2),
        ("max_steps", 7),
        ("batch", {"tokens": 4096}),
        ("batch", {"tokens": 8192, "accumulate": 2}),
        ("max_length", 64),
        ("packing", False),
        ("on_long", "skip"),
        ("schedule", "linear"),
        ("optimizer", {"weight_decay": 0.1}),
        ("heldout", {"fraction": 0.5}),
        ("heldout", {"data": "general.jsonl"}),
        ("replay", {"data": "general.jsonl", "fraction": 0.1}),
        ("data", [{"path": "chat.jsonl"}, {"path": "general.jsonl"}]),
        ("adapter", {"kind": "lora"}),
        ("cluster", {"precision": "bf16"}),
        ("cluster", {"cpus_per_worker": 2}),
        ("base", "base"),  # the recipe's own base instead of stage domain's result
    ],
)
def test_a_setting_of_the_second_stage_changes_its_fingerprint_and_leaves_the_firsts_alone(house, key, value):
    assert changed(house, **{f"stages__instruct__{key}": value}) == [False, True]


def test_everything_that_the_first_stage_computes_from_changes_all_stages(house):
    for settings in (
        {"seed": 1},
        {"stages__domain__lr": 1e-5},
        {"adapter": {"kind": "lora"}},
        {"cluster__cpus_per_worker": 2},
    ):
        assert changed(house, **settings) == [True, True], settings


def test_a_recipes_precision_counts_as_it_is_resolved(house):
    assert changed(house, cluster__precision="fp32") == [False, False]
    assert changed(house, cluster__precision="bf16") == [True, True]


def test_another_instruction_set_or_library_makes_other_numbers(house, monkeypatch):
    before = house.fingerprints()
    with monkeypatch.context() as patch:
        patch.setattr(planned, "instruction_set", lambda: "riscv/VECTOR")
        assert not set(before) & set(house.fingerprints())
    monkeypatch.setattr(planned, "library_versions", lambda: {"torch": "3.0"})
    assert not set(before) & set(house.fingerprints())


@pytest.mark.parametrize(
    "settings",
    [
        {"stages__domain__checkpoint": {"every": 7, "keep": 5}},
        {"stages__domain__max_length": 128},  # the model's positions: the default
        {"stages__domain__batch": {"tokens": 8192}},  # the default
        {"stages__domain__data": [{"path": "./corpus.txt"}]},
        {"stages__domain__data": [{"path": "corpus.txt", "licence": "mit"}]},
        {"stages__domain__cluster": {"workers": 2, "zero": 3}},  # the same losses, in sums of another order
        {"cluster__workers": 2},
        {"cluster__min_workers": 1},
        {"stages__domain__adapter": "full"},
        {"stages__domain__base": "./base"},
        {"name": "another"},
        {"stages__instruct__from": "domain"},  # as by default
    ],
)
def test_what_computes_the_same_has_the_same_fingerprints(house, settings):
    assert changed(house, **settings) == [False, False]


def test_a_stages_name_is_in_its_folder_and_not_in_its_fingerprint(house):
    before, after = house.plan()[0], house.plan(stages__domain__name="other")[0]
    assert before.fingerprint == after.fingerprint
    assert (before.artifact.name, after.artifact.name) == (
        f"domain-{before.fingerprint[:12]}",
        f"other-{before.fingerprint[:12]}",
    )


def test_the_layout_of_the_file_comments_and_the_out_folder_do_not_matter(house):
    before = house.fingerprints()
    recipe = house.folder / "recipe.yaml"
    recipe.write_text("# the same\n" + json.dumps(dict(house.tree)))  # JSON is YAML too
    after = graph.plan_stages(load_recipe(recipe), house.folder / "elsewhere")
    assert [stage.fingerprint for stage in after] == before


@pytest.mark.parametrize("name", ["chat.jsonl", "held.jsonl", "replay.jsonl"])
def test_data_counts_by_its_content_not_by_its_name_or_place(house, name):
    (house.folder / "held.jsonl").write_text("held out")
    (house.folder / "replay.jsonl").write_text("replayed")
    keys = {"heldout": {"data": "held.jsonl"}, "replay": {"data": "replay.jsonl", "fraction": 0.2}}
    before = house.with_stages(ONE | keys).fingerprints()

    (house.folder / "deep").mkdir()
    (house.folder / name).rename(house.folder / "deep" / f"moved-{name}")
    moved = json.loads(json.dumps(ONE | keys).replace(name, f"deep/moved-{name}"))
    assert house.with_stages(moved).fingerprints() == before

    append(house.folder / "deep" / f"moved-{name}", "more\n")
    assert house.with_stages(moved).fingerprints() != before


def test_new_data_of_the_second_stage_leaves_the_first_alone_and_changes_all_later_ones(house):
    house = house.with_stages(*house.tree["stages"], {"name": "polish", "kind": "sft", "data": "general.jsonl"})
    before = house.fingerprints()
    append(house.folder / "chat.jsonl", "more\n")
    after = house.fingerprints()
    assert [one != other for one, other in zip(before, after, strict=True)] == [False, True, True]


def test_a_branch_that_does_not_come_from_the_changed_stage_stays(house):
    branch = {"name": "branch", "kind": "sft", "data": "general.jsonl", "from": "domain"}
    house = house.with_stages(*house.tree["stages"], branch)
    assert changed(house, stages__instruct__lr=1e-5) == [False, True, False]


def test_the_weight_of_a_source_and_how_it_is_read_count(house):
    house = house.with_stages({"name": "domain", "kind": "pretrain", "data": [{"path": "corpus.txt"}]})
    assert changed(house, stages__domain__data__0__split="lines") == [True]
    assert changed(house, stages__domain__data__0__weight=2.0) == [True]


def test_other_weights_of_the_base_are_another_origin(house):
    before = house.fingerprints()
    weights = load_file(house.folder / "base" / "model.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, house.folder / "base" / "model.safetensors")
    assert not set(before) & set(house.fingerprints())


def test_a_stage_is_done_when_its_artifact_is_there_and_only_under_the_same_fingerprint(house):
    finish(house.plan()[0])
    assert [stage.is_done for stage in house.plan()] == [True, False]
    assert [stage.is_done for stage in house.plan(stages__domain__lr=1e-5)] == [False, False]
    assert [stage.is_done for stage in house.plan(stages__instruct__lr=1e-5)] == [True, False]


def test_until_plans_the_stages_up_to_and_with_it(house):
    assert [stage.spec.name for stage in house.plan(until="domain")] == ["domain"]
    assert [stage.spec.name for stage in house.plan(until="instruct")] == ["domain", "instruct"]
