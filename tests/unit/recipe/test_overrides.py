"""`--set key=value` over a recipe: where it goes, and what is told where it cannot."""

from __future__ import annotations

import pytest

from fettle.recipe.data import DataSpec
from fettle.recipe.optimizer import ScheduleSpec
from fettle.recipe.stages import BatchSpec

TWO = """\
name: a
adapter: full
stages:
  - {name: domain, kind: pretrain, data: [a.txt, {path: b.txt, weight: 0.5}], schedule: linear}
  - name: task
    kind: sft
    data: x.jsonl
    lr: 3e-4
"""


def test_a_top_level_key_is_set(load):
    assert load(TWO, seed="7").seed == 7


def test_a_stage_is_found_by_its_name_or_its_place(load):
    by_name, by_place = load(TWO, stages__task__lr="1e-5"), load(TWO, stages__1__lr="1e-5")
    assert by_name == by_place and by_name.stages[1].lr == 1e-5 and by_name.stages[0].lr == 2e-4


def test_a_key_is_set_in_a_part_that_the_recipe_leaves_out(load):
    recipe = load(TWO, stages__task__batch__tokens="64", cluster__workers="2")
    assert (recipe.stages[1].batch, recipe.cluster.workers) == (BatchSpec(tokens=64), 2)


def test_values_are_read_as_yaml_and_others_are_taken_as_they_are(load):
    recipe = load(TWO, adapter="{kind: lora, r: 4}", stages__task__packing="false", stages__task__max_steps=3)
    assert (recipe.adapter.r, recipe.stages[1].packing, recipe.stages[1].max_steps) == (4, False, 3)


def test_null_takes_a_key_back(load):
    assert load(TWO.replace("lr: 3e-4", "epochs: 2"), stages__task__epochs="null", stages__task__max_steps="3")


def test_a_key_beside_a_word_keeps_what_the_word_says(load):
    recipe = load(TWO, stages__domain__schedule__warmup="0.5")
    assert recipe.stages[0].schedule == ScheduleSpec(kind="linear", warmup=0.5)


def test_a_source_is_found_by_its_place_however_it_is_written(load):
    recipe = load(TWO, stages__domain__data__0__weight="2", stages__domain__data__1__weight="3")
    assert [source.weight for source in recipe.stages[0].data] == [2, 3]
    assert load(TWO, stages__task__data__0__weight="2").stages[1].data == (DataSpec(path="x.jsonl", weight=2),)


def test_the_recipes_file_is_left_as_it_is(load, tmp_path):
    load(TWO, seed="7")
    assert (tmp_path / "recipe.yaml").read_text() == TWO


@pytest.mark.parametrize("key", ["stages__task__lr", "stages__1__lr"])
def test_a_mistake_names_set_not_a_line_of_the_file(told, key):
    message = told(TWO, **{key: "fast"})
    assert message == "recipe.yaml: stages.task.lr: input should be a valid number, not 'fast' (with --set)"


def test_a_mistake_within_a_value_names_set_too(told):
    message = told(TWO, stages__task__batch="{tokens: 0}")
    assert message.startswith("recipe.yaml: stages.task.batch.tokens: input should")
    assert message.endswith("(with --set)")


def test_a_mistake_of_the_file_keeps_its_line_whatever_is_set(told):
    assert told(TWO.replace("3e-4", "fast"), seed="1").startswith("recipe.yaml:8: stages.task.lr: input should be")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "stages__tsak__lr",
            "1",
            "recipe.yaml: --set stages.tsak.lr: no 'tsak' (did you mean 'task'?)\n  expected: dom",
        ),
        ("stages__2__lr", "1", "recipe.yaml: --set stages.2.lr: no '2'\n  expected: domain, task"),
        ("stages__task__lrr", "1", "recipe.yaml: stages.task.lrr: unknown key (did you mean 'lr'?) (with --set)"),
        ("sede", "1", "recipe.yaml: sede: unknown key (did you mean 'seed'?) (with --set)"),
        ("name", "", "recipe.yaml: name: input should be a valid string, not None (with --set)"),
        ("seed", "[1", "recipe.yaml: --set seed=[1: not valid YAML: expected ',' or ']'"),
        ("name", "{{ x }}", "recipe.yaml: --set name={{ x }}: not valid YAML: found unhashable key"),
        ("seed", "\x07", "recipe.yaml: --set seed=\x07: not valid YAML: "),
        ("stages__task__data__0__path__x", "1", "recipe.yaml: --set stages.task.data.0.path.x: 'x.jsonl' has no keys"),
        ("name__x", "1", "recipe.yaml: --set name.x: 'a' has no keys"),
    ],
)
def test_a_mistake_of_set_is_told(told, key, value, message):
    assert told(TWO, **{key: value}).startswith(message)
