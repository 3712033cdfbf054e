"""Checking a recipe's stage: all of its data, what it can learn, and what training and held-out data share."""

from __future__ import annotations

import pytest

from fettle.data.check import inspect_stage
from fettle.errors import UserError
from fettle.recipe import load_recipe

PAIR = {"prompt": "Hi", "completion": "Yo"}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}


def recipe_of(write, stage: str):
    file = write("recipe.yaml", f"name: x\nstages:\n  - {stage}\n")
    return load_recipe(file)


def test_a_stages_data_replay_and_heldout_are_all_checked(write):
    for name in ("a", "b", "c"):
        write(f"{name}.jsonl", [{"prompt": "Hi", "completion": name}])
    recipe = recipe_of(
        write, "{name: s, kind: sft, data: a.jsonl, replay: {data: b.jsonl, fraction: 0.1}, heldout: {data: c.jsonl}}"
    )
    files = inspect_stage(recipe, recipe.stages[0]).files
    assert [file.file.name for file in files] == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_of_a_large_file_only_some_records_are_read(write, monkeypatch):
    monkeypatch.setattr("fettle.data.check._ROWS_OF_LARGE", 3)
    write("a.jsonl", [{"prompt": "Hi", "completion": str(i)} for i in range(9)])
    recipe = recipe_of(write, "{name: s, kind: sft, data: a.jsonl}")
    looks = [inspect_stage(recipe, recipe.stages[0], large_bytes=limit).files[0] for limit in (9, 9999)]
    assert [(file.records, file.is_sampled) for file in looks] == [(3, True), (9, False)]


def test_a_stages_missing_file_is_told_at_the_recipes_line(write):
    recipe = recipe_of(write, "{name: s, kind: sft, data: none.jsonl}")
    with pytest.raises(UserError, match=r"recipe.yaml:3: stages.s.data: .*none.jsonl: no such file"):
        inspect_stage(recipe, recipe.stages[0]).raise_mistakes()


def test_a_stages_overlap_of_data_and_replay_with_its_held_out_data_is_a_warning(write):
    for name in ("a", "b"):
        write(f"{name}.jsonl", [{"prompt": "Hi", "completion": name}, {"prompt": "Who?", "completion": name}])
    write("c.jsonl", [{"prompt": "Hi", "completion": name} for name in "abc"])
    recipe = recipe_of(
        write, "{name: s, kind: sft, data: a.jsonl, replay: {data: b.jsonl, fraction: 0.1}, heldout: {data: c.jsonl}}"
    )
    report = inspect_stage(recipe, recipe.stages[0])
    assert (report.overlap.records, report.overlap.equal) == (3, 2)
    assert report.warnings[0].startswith("2 of 3 held-out records are in the training data (2 the same)")


@pytest.mark.parametrize(
    ("kind", "row", "told"),
    [
        ("pretrain", PAIR, "prompt_completion records for a stage of kind pretrain|raw text|use kind: sft"),
        ("pretrain", CHAT, "messages records for a stage of kind pretrain|raw text|use kind: sft"),
        (
            "pretrain",
            {"text": "x", "label": "a"},
            "classification records for a stage of kind pretrain|raw text|format: text",
        ),
        ("sft", {"text": "x"}, "text records for a stage of kind sft|questions and answers|use kind: pretrain"),
        (
            "sft",
            {"text": "x", "label": "a"},
            "classification records for a stage of kind sft|questions and answers|use kind: classify",
        ),
        (
            "sft",
            {"prompt": "Q", "chosen": "A", "rejected": "B"},
            "preference records for a stage of kind sft|questions and answers|{completion: chosen} learns the chosen",
        ),
        (
            "sft",
            {**PAIR, "label": True},
            "unpaired records for a stage of kind sft|questions and answers|kind: preference",
        ),
        (
            "sft",
            {"prompt": "Q", "completions": ["A"], "labels": [True]},
            "stepwise records for a stage of kind sft|questions and answers",
        ),
        ("sft", {"prompt": "Q"}, "prompt records for a stage of kind sft|questions and answers"),
        (
            "distill, teacher: tiny",
            {"prompt": "Q"},
            "prompt records for a stage of kind distill|raw text, or questions and answers",
        ),
        (
            "distill, teacher: tiny, loss: answers",
            {"prompt": "Q", "completions": ["A"], "labels": [True]},
            "stepwise records for a stage of kind distill|prompts, with or without answers",
        ),
        (
            "reward",
            {"prompt": "Q", "completions": ["A"], "labels": [True]},
            "stepwise records for a stage of kind reward|preferred and rejected answers",
        ),
        (
            "preference",
            {**PAIR, "label": True},
            "unpaired records for a stage of kind preference|preferred and rejected answers|loss: kto",
        ),
    ],
)
def test_a_stage_refuses_what_it_cannot_learn_and_says_what_to_do(write, kind, row, told):
    write("a.jsonl", [row])
    recipe = recipe_of(write, f"{{name: s, kind: {kind}, data: a.jsonl}}")
    with pytest.raises(UserError) as caught:
        inspect_stage(recipe, recipe.stages[0]).raise_mistakes()
    got, expected, *fix = told.split("|")
    assert (caught.value.got, caught.value.expected, caught.value.field) == (got, expected, "stages.s.data")
    assert fix == [] if caught.value.fix is None else fix[0] in caught.value.fix


@pytest.mark.parametrize("fix", ["data: {path: a.jsonl, format: prompt_completion, columns: {completion: chosen}}"])
def test_the_fix_for_preferences_does_as_it_says(write, fix):
    write("a.jsonl", [{"prompt": "Q", "chosen": "A", "rejected": "B"}])
    recipe = recipe_of(write, f"{{name: s, kind: sft, {fix}}}")
    (file,) = inspect_stage(recipe, recipe.stages[0]).files
    assert file.kinds == {"prompt_completion": 1}


@pytest.mark.parametrize(("kind", "row"), [("pretrain", PAIR), ("sft", {"text": "x"})])
def test_replay_may_be_of_any_kind_that_is_learned(write, kind, row):
    write("a.jsonl", [{"text": "y"} if kind == "pretrain" else PAIR])
    write("b.jsonl", [row])
    recipe = recipe_of(write, f"{{name: s, kind: {kind}, data: a.jsonl, replay: {{data: b.jsonl, fraction: 0.5}}}}")
    assert inspect_stage(recipe, recipe.stages[0]).mistakes.count == 0


def test_held_out_data_of_a_kind_that_the_stage_does_not_learn_is_refused(write):
    write("a.jsonl", [PAIR])
    write("b.jsonl", [{"text": "x"}])
    recipe = recipe_of(write, "{name: s, kind: sft, data: a.jsonl, heldout: {data: b.jsonl}}")
    with pytest.raises(UserError, match="stages.s.heldout: text records for a stage of kind sft"):
        inspect_stage(recipe, recipe.stages[0]).raise_mistakes()
