"""Worked examples before a prompt: which they are, how many there is room for, and where they stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_house import House, chat, lines

from fettle.data.asked import as_prompt
from fettle.data.record import Message, Prompt, Record
from fettle.data.sources import open_source
from fettle.errors import UserError
from fettle.pipeline.few_shot import choose, examples, first_answer, fitting, has_plain, with_shots
from fettle.recipe.data import DataSpec


def pair(asked: str, answer: str | None = None) -> Record:
    prompt = Prompt((Message("user", asked),), (asked,))
    return Record(Path("pairs.jsonl"), 1, prompt=prompt, completion=answer)


def code(records: list[Record]) -> list[np.ndarray]:
    """A token for each character of the plain text."""
    texts = ["".join(one.prompt.plain) + (one.completion or "") for one in records if one.prompt is not None]
    return [np.frombuffer(text.encode(), np.uint8) for text in texts]


def chosen(folder: Path, rows: list[dict], questions: list[Record]) -> list[Record]:
    file = folder / "train.jsonl"
    file.write_text(lines(rows))
    return choose([open_source(DataSpec(path=str(file)), Path)], questions)


def test_examples_do_not_depend_on_the_records_order(tmp_path):
    rows = [chat(number) for number in range(20)]
    there, back = chosen(tmp_path, rows, []), chosen(tmp_path, rows[::-1], [])
    assert [one.messages for one in there] == [one.messages for one in back]
    assert {one.line for one in there} == set(range(1, 21)) and [one.line for one in there] != list(range(1, 21))


def test_no_example_asks_what_is_held_out_nor_what_another_asks(tmp_path):
    rows = [
        {"prompt": asked, "completion": "yes"} for asked in ("Is it late?", "is it  LATE?", "A cat?", "a cat?", "b")
    ]
    found = chosen(tmp_path, rows, [pair("Is it late?")])
    assert sorted(one.prompt.plain[0] for one in found) == ["A cat?", "b"]


def test_documents_and_calls_of_tools_are_no_examples(tmp_path):
    call = {"function": {"name": "clock", "arguments": {}}, "type": "function", "id": "1"}
    turns = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    turns += [{"role": "tool", "content": "9", "tool_call_id": "1"}, {"role": "assistant", "content": "At nine."}]
    assert chosen(tmp_path, [{"messages": turns}], []) == []
    assert chosen(tmp_path, [{"text": "A document."}], []) == []


def test_examples_that_leave_no_room_are_passed_over():
    candidates = [pair("long " * 8, "yes"), pair("a?", "b"), pair("c?", "d"), pair("e?", "f")]
    assert fitting(candidates, 2, 12, code) == candidates[1:3]  # each at most a third of 12 characters
    assert fitting(candidates, 8, 9, code) == []


def test_a_prompt_has_as_many_examples_as_it_leaves_room_for():
    shots = [pair("a?", "b"), pair("c?", "d")]  # of 3 characters, and 2 between

    coded, counts = with_shots(shots, [pair("e?"), pair("longer?"), pair("much longer?")], 12, code)

    assert [bytes(ids).decode() for ids in coded] == ["a?b\n\nc?d\n\ne?", "a?b\n\nlonger?", "much longer?"]
    assert counts == [2, 1, 0]


def test_a_prompt_without_examples_is_as_it_was():
    coded, counts = with_shots([], [pair("e?")], 1, code)
    assert (bytes(coded[0]), counts) == (b"e?", [0])


def test_examples_stand_as_turns_behind_the_prompts_own_system_message():
    def seen(records: list[Record]) -> list[np.ndarray]:
        told.extend(records)
        return [np.zeros(1, np.int32) for _ in records]

    told: list[Record] = []
    turns = (Message("system", "Be kind."), Message("user", "How late?"))
    other = (Message("system", "Be rude."), Message("user", "Who?"), Message("assistant", "You.", True))

    with_shots([Record(Path("x"), 1, messages=other)], [Record(Path("x"), 2, prompt=Prompt(turns))], 9, seen)

    (record,) = told
    said = [("system", "Be kind."), ("user", "Who?"), ("assistant", "You."), ("user", "How late?")]
    assert [(turn.role, turn.content) for turn in record.conversation] == said
    assert not any(turn.bears_loss for turn in record.conversation) and not record.prompt.plain


def test_without_a_template_an_answer_ends_where_another_example_would_begin():
    assert first_answer("nine\n\nWho? You.", [pair("a?", "b")]) == "nine"
    assert (
        first_answer("nine\n\nor ten", [pair("a?", "b\n\nc")]) == first_answer("nine\n\nor ten", []) == "nine\n\nor ten"
    )


def test_messages_have_no_plain_text():
    assert has_plain(pair("a?", "b")) and not has_plain(Record(Path("x"), 1, messages=(Message("user", "a"),)))


def judged(house: House, **keys: object) -> House:
    entry = {"kind": "generate", "data": "general.jsonl"} | keys
    return House(house.folder, {**house.tree, "evaluate": [entry]})


def found_in(house: House, *questions: Record) -> list[Record]:
    return examples(house.recipe(), 0, house.plan(), questions)


def test_examples_come_from_the_first_stage_that_learns_answers(house):
    question = as_prompt(Record(Path("x"), 1, messages=(Message("user", "What is 7?"), Message("assistant", "7"))))
    found = found_in(judged(house), question)
    assert {one.file.name for one in found} == {"chat.jsonl"}
    assert {one.line for one in found} == set(range(1, 21)) - {8}


def test_examples_come_from_shots_where_the_recipe_names_them(house):
    found = found_in(judged(house, shots={"path": "general.jsonl", "limit": 3}))
    assert sorted((one.file.name, one.line) for one in found) == [("general.jsonl", line) for line in (1, 2, 3)]


def test_no_examples_are_looked_for_where_none_are_wanted(house):
    assert found_in(judged(house, few_shot=0)) == []


def test_a_run_that_learns_no_answers_has_none_and_wants_none_unless_it_says_so(house):
    bare = house.with_stages({"name": "domain", "kind": "pretrain", "data": "corpus.txt"})
    assert found_in(judged(bare)) == []
    with pytest.raises(UserError, match="there is no example to show to the base") as refused:
        found_in(judged(bare, few_shot=1))
    assert refused.value.field == "evaluate.0.few_shot"
