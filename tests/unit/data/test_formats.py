"""Rows to records: each format as people write it, what detection says, and each format's commonest mistakes."""

from __future__ import annotations

import pytest

from fettle.data.formats import read_file
from fettle.data.record import Message, Record
from fettle.errors import UserError


@pytest.fixture
def read(write):
    """`read(rows)`: the records of a .jsonl file of these rows."""

    def read(rows) -> list[Record]:
        return list(read_file(write("a.jsonl", rows))[1])

    return read


@pytest.fixture
def refusal(write):
    """`refusal(rows)`: the message about a .jsonl file of these rows, less the file's folder."""

    def refusal(rows) -> str:
        file = write("a.jsonl", rows)
        with pytest.raises(UserError) as caught:
            list(read_file(file)[1])
        return str(caught.value).replace(f"{file.parent}/", "")

    return refusal


def test_raw_text_is_one_text_record_a_row(read):
    (record,) = read([{"text": "Once upon a time", "id": 7}])
    assert (record.kind, record.text, record.line) == ("text", "Once upon a time", 1)


def test_messages_learn_the_assistants_turns_only(read):
    said = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo"), ("user", "Bye"), ("assistant", "Ta")]
    (record,) = read([{"messages": [{"role": role, "content": content} for role, content in said]}])
    assert record.kind == "messages"
    assert [turn.bears_loss for turn in record.conversation] == [False, False, True, False, True]


def test_typed_text_parts_are_joined_line_by_line(read):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "value": "yo"}]}]
    (record,) = read([{"messages": turns}])
    assert [turn.content for turn in record.conversation] == ["one\ntwo", "yo"]


def test_prompt_and_completion_as_text_become_a_question_and_its_answer(read):
    (record,) = read([{"prompt": "2+2=", "completion": "4"}])
    assert record.conversation == (Message("user", "2+2="), Message("assistant", "4", bears_loss=True))
    assert record.prompt is not None and record.prompt.plain == ("2+2=",)


def test_of_prompt_and_completion_as_messages_only_the_completion_is_learned(read):
    prompt = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    (record,) = read([{"prompt": prompt, "completion": [{"role": "assistant", "content": "d"}]}])
    assert [turn.content for turn in record.conversation if turn.bears_loss] == ["d"]


def test_alpaca_asks_with_instruction_and_input(read):
    (record,) = read([{"instruction": "Add.", "input": "2 2", "output": "4"}])
    assert record.conversation == (Message("user", "Add.\n2 2"), Message("assistant", "4", bears_loss=True))


def test_alpaca_system_and_history_come_before_and_past_answers_are_learned_too(read):
    history = [["Hi", "Yo"]]
    (record,) = read([{"instruction": "Bye", "input": "", "output": "Ta", "system": "Be brief.", "history": history}])
    assert [(turn.role, turn.content, turn.bears_loss) for turn in record.conversation] == [
        ("system", "Be brief.", False),
        ("user", "Hi", False),
        ("assistant", "Yo", True),
        ("user", "Bye", False),
        ("assistant", "Ta", True),
    ]


def test_alpaca_without_a_template_is_stanfords_prompt(read):
    with_input, without = read(
        [{"instruction": "Add.", "input": "2 2", "output": "4"}, {"instruction": "Hi", "output": "Yo"}]
    )
    assert with_input.prompt.plain == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n2 2\n\n### Response:\n",
    )
    assert without.prompt.plain == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nHi\n\n### Response:\n",
    )


def test_detection_says_what_it_uses_what_it_leaves_and_why(write):
    rows = [{"id": 1, "instruction": "Hi", "output": "Yo", "text": "made from the others"}]
    format_, _ = read_file(write("a.jsonl", rows))
    assert (format_.name, format_.columns, format_.ignored, format_.why) == (
        "alpaca",
        ("instruction", "output"),
        ("id", "text"),
        "line 1 has instruction, output",
    )


def test_optional_and_unread_columns_may_come_and_go(read):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "input": None, "id": 1}]
    assert len(read(rows)) == 2


def test_equal_content_has_one_digest_in_every_format_and_place(read):
    alpaca = read([{"instruction": "Hi", "output": "Yo"}])[0]
    pair = read([{"prompt": "Hi", "completion": "Yo"}])[0]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    messages = read([{"messages": turns}, {"messages": turns}])[1]
    other = read([{"prompt": "H", "completion": "iYo"}])[0]
    assert alpaca.digest() == pair.digest() == messages.digest() != other.digest()


def test_unknown_columns_are_told_with_the_formats_known(refusal):
    told = refusal([{"conversations": [], "tools": ""}])
    assert told.startswith("a.jsonl:1: no known format has the keys conversations, tools\n")
    for known in ("messages (messages)", "alpaca (instruction, output)", "prompt_completion (prompt, completion)"):
        assert known in told


def test_a_nearly_known_column_is_told_with_its_name(refusal):
    assert "('message': did you mean 'messages'?)" in refusal([{"message": []}])


def test_a_half_known_format_is_told_with_what_it_lacks(refusal):
    assert "(alpaca lacks output)" in refusal([{"instruction": "Hi", "response": "Yo"}])


def test_mixed_formats_are_told_at_the_first_line_that_differs_with_both_key_sets(refusal):
    told = refusal([{"text": "x"}, {"text": "y"}, {"prompt": "Hi", "completion": "Yo"}])
    assert told.startswith(
        "a.jsonl:3: mixed formats in one file: this line has the keys prompt, completion (prompt_completion), "
        "while line 1 has text (text)"
    )


def test_a_missing_column_is_told_with_line_and_name(refusal):
    told = refusal([{"instruction": "Hi", "output": "Yo"}, {"instruction": "Hi", "ouput": "Yo"}])
    assert told.startswith("a.jsonl:2: output: this column is missing (did you mean 'ouput'?); the line has the keys")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": 5}, "text: a number, not text"),
        ({"prompt": "Hi", "completion": None}, "completion: null, not text"),
        ({"prompt": [], "completion": "Yo"}, "completion: prompt is a list and completion text"),
        ({"instruction": ["Hi"], "output": "Yo"}, "instruction: a list, not text"),
        ({"instruction": "a", "output": "b", "history": ["x"]}, "history.0: not a pair of question and answer"),
        ({"instruction": "a", "output": "b", "history": [["x", 1]]}, "history.0.1: a number, not text"),
        ({"messages": "Hi"}, "messages: text, not a list of messages"),
        ({"messages": []}, "messages: an empty list"),
        ({"messages": ["Hi"]}, "messages.0: text, not a message"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: this key is missing"),
        ({"messages": [{"from": "human", "value": "Hi"}]}, 'messages.0.role: this key is missing (ShareGPT\'s "from"'),
        ({"messages": [{"role": "asistant", "content": ""}]}, "unknown role 'asistant' (did you mean 'assistant'?)"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content: null, not text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a part of type 'image_url'"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "messages: no assistant message, only user"),
    ],
)
def test_a_wrong_field_is_told_with_line_and_path(refusal, row, told):
    message = refusal([row])
    assert message.startswith("a.jsonl:1: ") and told in message and "expected: " in message


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": [{"role": "assistant", "content": "x", "train": False}]}, "messages.0.train: `train: false` is"),
        ({"messages": [{"role": "assistant", "content": "x", "loss_weight": 0.0}]}, "messages.0.loss_weight"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "tool calls are not read yet"),
        ({"messages": [{"role": "assistant", "content": "x"}], "tools": [{}]}, "tools: tools are not read yet"),
        ({"messages": [{"role": "assistant", "content": "x"}], "label": False}, "label: messages with the column"),
        ({"prompt": "a", "completion": "b", "label": True}, "is preference data, which is not read yet"),
    ],
)
def test_what_is_not_read_yet_is_refused_rather_than_trained_against(refusal, row, told):
    assert told in refusal([row])


def test_half_a_surrogate_pair_is_told(refusal, write):
    file = write("b.jsonl", '{"text": "\\ud83d"}\n')
    with pytest.raises(UserError, match=r"b.jsonl:1: text: half of a surrogate pair \(\\ud83d\)"):
        list(read_file(file)[1])
