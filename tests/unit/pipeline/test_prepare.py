"""Planned stages to jobs: their data encoded once, under a name that says all that is in it."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from small_house import House, chat, lines, write_base

from fettle.data.tokens import TokenSet
from fettle.errors import UserError
from fettle.models.base import load_tokenizer
from fettle.pipeline.prepare import end_ids, prepare
from fettle.train.job import StageJob

DOMAIN = {"name": "domain", "kind": "pretrain", "data": "corpus.txt"}
TASK = {"name": "task", "kind": "sft", "data": "chat.jsonl"}
LAST = {"name": "last", "kind": "sft", "data": "chat.jsonl"}
LORA = {"kind": "lora", "r": 4}


def prepared(house: House, **overrides: Any) -> tuple[list[StageJob], list[str]]:
    return prepare(house.recipe(**overrides), house.plan(**overrides), house.out / "tokens")


def sets(house: House) -> set[str]:
    return set(os.listdir(house.out / "tokens"))


def test_a_job_has_everything_resolved_that_the_recipe_leaves_open(house):
    (first, second), _ = prepared(house.with_stages(DOMAIN, TASK | {"max_length": 64}, adapter=LORA, seed=3))
    one, two = house.with_stages(DOMAIN, TASK | {"max_length": 64}, adapter=LORA, seed=3).plan()
    assert (first.name, first.fingerprint, first.seed, first.max_length) == ("domain", one.fingerprint, 3, 128)
    assert (second.base, second.from_adapter, second.artifact) == (house.folder / "base", one.artifact, two.artifact)
    assert (second.max_length, second.precision, second.adapter.r) == (64, "fp32", 4)


def test_a_job_travels_to_a_worker(house):
    (job, _), _ = prepared(house)
    assert pickle.loads(pickle.dumps(job)) == job


def test_sources_and_replay_are_encoded_with_their_weights_and_held_out_data_apart(house):
    replay, heldout = {"data": "general.jsonl", "fraction": 0.5}, {"data": "general.jsonl"}
    (job,), _ = prepared(house.with_stages(TASK | {"replay": replay, "heldout": heldout}))
    assert [len(TokenSet(*folders)) for folders in job.tokens] == [20, 10] and job.weights == (1.0, 1.0)
    assert job.heldout == job.tokens[1]  # the same records are encoded once
    assert [name for name, _ in job.data] == ["chat.jsonl", "general.jsonl"]


def test_a_job_says_under_which_licences_its_data_is(house):
    (house.folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    (job,), _ = prepared(
        house.with_stages(TASK | {"data": [{"path": "chat.jsonl", "licence": "mit"}, "general.jsonl"]})
    )
    assert job.data_licences == (("chat.jsonl", ("mit",)), ("general.jsonl", ("cc-by-4.0",)))


def test_only_the_answers_of_a_chat_bear_loss(house):
    (job,), _ = prepared(house.with_stages(TASK))
    tokenizer = load_tokenizer(house.folder / "base")
    example = TokenSet(*job.tokens[0])[0]
    assert tokenizer.decode(example.input_ids[example.loss_mask]) == "It is 0.<|im_end|>"


def test_generation_stops_at_the_end_of_a_turn_and_of_the_text(house):
    tokenizer = load_tokenizer(house.folder / "base")
    assert end_ids(tokenizer) == (
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
        tokenizer.convert_tokens_to_ids("<|end|>"),
    )


def test_what_is_encoded_already_is_taken_as_it_is(house):
    (job,), _ = prepared(house.with_stages(TASK))
    before = (job.tokens[0][0] / "ids.bin").stat().st_mtime_ns
    (again,), _ = prepared(house.with_stages(TASK), stages__task__lr=1e-5)
    assert again.tokens == job.tokens and (again.tokens[0][0] / "ids.bin").stat().st_mtime_ns == before


@pytest.mark.parametrize(("key", "value"), [("max_length", 32), ("on_long", "skip")])
def test_records_read_otherwise_are_encoded_anew(house, key, value):
    prepared(house.with_stages(TASK))
    before = sets(house)
    prepared(house.with_stages(TASK), **{f"stages__task__{key}": value})
    assert len(sets(house) - before) == 1


def test_lines_are_other_records_than_a_document(house):
    (whole,), _ = prepared(house.with_stages(DOMAIN))
    (split,), _ = prepared(house.with_stages(DOMAIN | {"data": [{"path": "corpus.txt", "split": "lines"}]}))
    assert whole.tokens != split.tokens and len(TokenSet(*split.tokens[0])) == 20


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("special_tokens_map.json", '{"eos_token": "<|im_end|>"}'),
        ("chat_template.jinja", "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"),
        ("config.json", '{"model_type": "mistral", "max_position_embeddings": 128}'),  # transformers goes by it
        ("merges.txt", "#version: 0.2\n"),
        ("added_tokens.json", "{}"),
    ],
)
def test_a_base_that_tokenizes_otherwise_has_an_encoding_of_its_own(house, name, content):
    other = write_base(house.folder / "other")
    (other / name).write_text(content)
    (one, two), _ = prepared(house.with_stages(TASK, LAST | {"base": "other"}))
    assert one.tokens != two.tokens


def test_bases_with_the_same_tokenizer_share_an_encoding(house):
    write_base(house.folder / "other")
    (one, two), _ = prepared(house.with_stages(TASK, LAST | {"base": "other"}))
    assert one.tokens == two.tokens


def test_the_first_mistake_of_any_stage_is_told_before_anything_is_encoded(house):
    (house.folder / "chat.jsonl").write_text('{"messages')
    with pytest.raises(UserError, match=r"chat\.jsonl:1: the line is cut off"):
        prepared(house)
    assert not house.out.exists()


def test_an_error_while_encoding_leaves_no_torn_set(house):
    (house.folder / "chat.jsonl").write_text(lines([{"prompt": "x" * 500, "completion": "y"}]))
    with pytest.raises(UserError, match="no token bears loss"):
        prepared(house.with_stages(TASK))
    assert not house.out.exists() or sets(house) == set()


def test_what_became_of_long_records_is_told(house):
    rows = [chat(1), {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a" * 200}]}]
    rows.append({"messages": [{"role": "user", "content": "b" * 200}, {"role": "assistant", "content": "Yo"}]})
    (house.folder / "chat.jsonl").write_text(lines(rows))
    assert prepared(house.with_stages(TASK))[1] == [
        "stages.task.data: of 3 records 1 longer than 128 tokens were cut, 1 with nothing to learn were skipped"
    ]
    assert (
        "of 3 records 2 longer than 128 tokens were skipped"
        in (prepared(house.with_stages(TASK | {"on_long": "skip"}))[1][0])
    )


def test_what_plain_prompts_become_is_shown_where_there_is_no_template(house):
    config = house.folder / "base" / "tokenizer_config.json"
    told = json.loads(config.read_text())
    del told["chat_template"]
    config.write_text(json.dumps(told))
    (house.folder / "chat.jsonl").write_text(lines([{"prompt": "Q:", "completion": " A"}]))
    (note,) = prepared(house.with_stages(TASK))[1]
    assert note.startswith("stages.task.data: the base has no chat template; the first record reads\n")
    assert note.endswith("Q: A<|end|>")


def test_warnings_are_counted_and_said_where_to_read(house):
    (house.folder / "chat.jsonl").write_text(lines([chat(1), chat(1)]))
    assert prepared(house.with_stages(TASK))[1] == ["stages.task: 1 warning; `fettle data check` tells them"]


def test_messages_without_any_template_are_refused(house):
    config = house.folder / "base" / "tokenizer_config.json"
    config.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}))
    with pytest.raises(UserError, match="chat template") as told:
        prepared(house.with_stages(TASK))
    assert told.value.exit_code == 2 and Path(str(told.value.file)).name
