"""What is checked before a stage that trains a head, or begins from a model with one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from small_house import House, finish, lines, write_base

from fettle.artifact import new_artifact
from fettle.errors import UserError
from fettle.pipeline.prepare import prepare

TASTE = {"name": "taste", "kind": "reward", "data": "pairs.jsonl", "heldout": {"fraction": 0.2}}
MORE = {"name": "more", "kind": "sft", "data": "chat.jsonl"}


@pytest.fixture
def pairs(house: House) -> House:
    rows = [{"prompt": f"{n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(10)]
    (house.folder / "pairs.jsonl").write_text(lines(rows))
    return house


def prepared(house: House) -> Any:
    return prepare(house.recipe(), house.plan(), house.out / "tokens")


def test_margins_that_no_record_has_are_refused(pairs):
    with pytest.raises(UserError, match=r"stages\.taste\.margin: no record says by how much an answer is better"):
        prepared(pairs.with_stages(TASTE | {"margin": True}))


@pytest.mark.parametrize("columns", [{"margin": 0.5}, {"score_chosen": 4.0, "score_rejected": 1.0}])
def test_margins_are_taken_from_the_records_or_their_scores(pairs, columns):
    rows = [{"prompt": f"{n}?", "chosen": f"It is {n}.", "rejected": "No."} | columns for n in range(10)]
    (pairs.folder / "pairs.jsonl").write_text(lines(rows))
    (job,), _ = prepared(pairs.with_stages(TASTE | {"margin": True}))
    assert job.spec.margin


def test_answers_of_one_score_are_left_out_and_counted(pairs):
    rows = [{"prompt": f"{n}?", "answers": ["A", "B"], "scores": [n % 2, 0]} for n in range(10)]
    (pairs.folder / "pairs.jsonl").write_text(lines(rows))
    _, notes = prepared(pairs.with_stages(TASTE))
    assert "stages.taste.data: of 10 records 5 with nothing to learn were skipped" in notes


def test_a_family_without_a_head_is_refused(pairs):
    base = write_base(pairs.folder / "mamba")
    (base / "config.json").write_text(json.dumps({"model_type": "mamba", "max_position_embeddings": 64}))
    with pytest.raises(UserError, match=r"stages\.taste\.base: there is no head for .* mamba"):
        prepared(pairs.with_stages(TASTE | {"base": "mamba"}))


def test_a_language_model_does_not_begin_from_a_reward_models_folder(pairs):
    folder = pairs.folder / "taste-1"
    with new_artifact(folder, kind="reward", name="taste", fingerprint="f") as partial:
        for file in (pairs.folder / "base").iterdir():
            (partial / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"stages\.more\.from: taste-1 is a reward model") as told:
        prepared(pairs.with_stages(MORE | {"from": "taste-1"}))
    assert "only a stage of kind reward goes on from this one" in str(told.value)
    prepared(pairs.with_stages(TASTE | {"from": "taste-1"}))


def test_the_next_stage_begins_from_the_language_model_before_a_reward_stage(pairs):
    first, taste, more = pairs.with_stages({"name": "first", "kind": "sft", "data": "chat.jsonl"}, TASTE, MORE).plan()
    assert taste.origin.identity == more.origin.identity == first.fingerprint
    finish(first)


def test_answers_are_not_streamed(pairs):
    with pytest.raises(UserError, match="streaming works with pretrain and sft"):
        pairs.with_stages(TASTE | {"streaming": True, "max_steps": 3}).recipe()
