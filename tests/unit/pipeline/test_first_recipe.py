"""A first recipe: what it says of its data, that it would run, and that a mistake leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_house import House, chat, lines

from fettle.data.sources import open_source, read_source
from fettle.errors import UserError
from fettle.pipeline.first_recipe import first_recipe
from fettle.recipe import Recipe, load_recipe
from fettle.recipe.data import DataSpec


@pytest.fixture
def at(house: House, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The house's folder, in which one works."""
    monkeypatch.chdir(house.folder)
    return Path()


def written(task: str, data: str, **keys: object) -> Recipe:
    first_recipe(task, [DataSpec(path=data)], Path("new/first.yaml"), base="base", **keys)
    return load_recipe("new/first.yaml")


def told(task: str, data: str, **keys: object) -> str:
    with pytest.raises(UserError) as refused:
        written(task, data, **keys)
    assert not Path("new").exists()
    return str(refused.value)


def records(recipe: Recipe, source: DataSpec) -> list:
    return list(read_source(open_source(source, recipe.resolve)))


def test_a_tenth_is_held_out_and_the_rest_is_learned(at):
    recipe = written("chat", "chat.jsonl", goals={"rouge1": 0.3})

    (stage,), (judged,) = recipe.stages, recipe.evaluate
    learned, held = records(recipe, stage.data[0]), records(recipe, judged.data)
    assert (recipe.name, recipe.base, stage.kind, len(learned), len(held)) == ("first", "../base", "sft", 18, 2)
    assert stage.heldout.data == judged.data
    assert not {one.messages for one in learned} & {one.messages for one in held}
    assert (judged.metrics, judged.at_least, judged.gain) == (("rouge",), {"rouge1": 0.3}, {})


def test_without_a_goal_the_result_has_to_be_better_than_the_base(at):
    assert written("extract", "chat.jsonl").evaluate[0].gain == {"f1": 0.1}


def test_a_goal_brings_its_metric(at):
    (judged,) = written("chat", "chat.jsonl", gains={"accuracy": 0.2, "rougeL": 0.1}).evaluate
    assert (judged.metrics, judged.gain) == (("rouge", "accuracy"), {"accuracy": 0.2, "rougeL": 0.1})


def test_tokens_are_measured_and_little_data_is_read_more_often_in_smaller_steps(at):
    (stage,) = written("chat", "chat.jsonl").stages
    # <|im_start|>, user, \n and so on: a byte is a token in this house; the longest record has 52 of them, or 64 / 32.
    assert (stage.max_length, stage.epochs, stage.batch.tokens) == (64, 10, 512)


def test_held_out_records_of_ones_own_are_taken_as_they_lie(at):
    recipe = written("chat", "chat.jsonl", heldout="general.jsonl")
    assert (recipe.stages[0].data[0].path, recipe.evaluate[0].data.path) == ("../chat.jsonl", "../general.jsonl")
    assert [file.name for file in Path("new").iterdir()] == ["first.yaml"]


def test_documents_are_judged_by_their_loss(at):
    Path("docs.jsonl").write_text(lines([{"text": f"Rule {number}: tickets."} for number in range(12)]))
    recipe = written("domain", "docs.jsonl", goals={"perplexity": 9})
    assert (recipe.stages[0].kind, recipe.evaluate[0].kind, recipe.evaluate[0].at_most) == (
        "pretrain",
        "loss",
        {"perplexity": 9},
    )


def test_a_text_with_its_label_becomes_a_question_with_its_answer(at):
    rows = [{"sentence": f"Ticket {number}?", "category": number % 2} for number in range(20)]
    Path("labels.jsonl").write_text(lines(rows))

    recipe = written("classify", "labels.jsonl")

    held = records(recipe, recipe.evaluate[0].data)
    assert sorted(one.completion for one in held) == ["0", "1"]  # of each label its share
    assert all(one.prompt.turns[0].content.startswith("Ticket") for one in held)
    assert recipe.evaluate[0].metrics == ("accuracy",)


def test_messages_get_a_template_where_the_base_has_none(at):
    settings = json.loads(Path("base/tokenizer_config.json").read_text())
    del settings["chat_template"]
    Path("base/tokenizer_config.json").write_text(json.dumps(settings))
    assert written("chat", "chat.jsonl").chat_template == "chatml"


def test_what_is_there_is_never_overwritten(at):
    Path("new").mkdir()
    Path("new/first.yaml").write_text("mine")
    with pytest.raises(UserError, match="never overwritten"):
        written("chat", "chat.jsonl")
    Path("new/first.yaml").unlink()
    Path("new/first-data").mkdir()
    Path("new/first-data/heldout.jsonl").write_text("mine")
    with pytest.raises(UserError, match="never overwritten: heldout.jsonl"):
        written("chat", "chat.jsonl")
    assert [file.name for file in Path("new/first-data").iterdir()] == ["heldout.jsonl"]


def test_data_for_another_task_is_told_with_what_to_do(at):
    assert told("chat", "corpus.txt") == (
        "corpus.txt: --task: records of kind text are none that chat learns from\n"
        "  expected: records of kind messages or prompt_completion\n"
        "  fix: documents are what --task domain learns"
    )


def test_a_recipe_that_would_not_run_is_not_left_behind(at):
    Path("other.txt").write_text("Nobody asks anything.")
    assert told("chat", "chat.jsonl", heldout="other.txt").startswith("the recipe would not run, and is not written: ")


def test_one_record_cannot_be_split(at):
    Path("one.jsonl").write_text(lines([chat(1)]))
    assert "one record cannot be split" in told("chat", "one.jsonl")
