"""Which format a file is in: what detection decides, says and refuses, and what a recipe may say instead."""

from __future__ import annotations

import pytest

from fettle.data.formats import SHAPES, as_records, detect, read_file
from fettle.data.rows import Row, read_rows
from fettle.errors import UserError
from fettle.recipe.data import DataSpec, FormatName

SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]


@pytest.fixture
def format_of(write):
    """`format_of(row, **how)`: what is decided about a file of this row."""

    def format_of(row, **how):
        file = write("a.jsonl", [row])
        return detect(Row(file, 1, row), DataSpec(path=str(file), **how))

    return format_of


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"text": "x", "title": "T", "author": "A"}, "text"),
        ({"text": "x", "category": "a"}, "classification"),
        ({"messages": SAID, "prompt": "Hi", "text": "made"}, "messages"),
        ({"messages": SAID, "label": True}, "unpaired"),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}, "sharegpt"),
        ({"instruction": "a", "input": "", "output": "b", "text": "made", "prompt": "made"}, "alpaca"),
        ({"instruction": "a", "context": "c", "response": "b", "category": "qa"}, "alpaca"),
        ({"instruction": "a", "output": ["b", "c"]}, "preference"),
        ({"instruction": "a", "output": "b", "kto_tag": True}, "unpaired"),
        ({"prompt": "a", "completion": "b", "label": True}, "unpaired"),
        ({"prompt": "a", "completion": "b", "category": "c"}, "prompt_completion"),
        ({"prompt": "a", "completions": ["b"], "labels": [True]}, "stepwise"),
        ({"prompt": "a", "prompt_id": "1", "chosen": SAID, "rejected": SAID, "messages": SAID}, "preference"),
        ({"prompt": "a", "response": "b"}, "query_response"),
        ({"question": "a", "answer": "b", "text": "made"}, "query_response"),
        ({"question": "a", "answers": ["b", "c"]}, "query_response"),
        ({"id": 1, "article": "a", "highlights": "b"}, "query_response"),
        (
            {"data_source": "gsm8k", "prompt": SAID[:1], "ability": "math", "reward_model": {}, "extra_info": {}},
            "prompt",
        ),
        ({"prompt": SAID[:1], "env_class": "gsm8k", "reward_spec": {}}, "prompt"),
    ],
)
def test_a_format_is_told_from_the_columns(format_of, row, name):
    assert format_of(row).name == name


def test_detection_says_what_it_uses_what_it_leaves_and_why(format_of):
    found = format_of({"id": 1, "instruction": "Hi", "output": "Yo", "text": "made from the others"})
    assert (found.name, found.columns, found.ignored, found.why) == (
        "alpaca",
        ("instruction", "output"),
        ("id", "text"),
        "line 1 has instruction, output",
    )


@pytest.mark.parametrize(
    ("row", "note"),
    [
        ({"input": "a", "output": ["b", "c"]}, "its list of answers is taken as ranked, the best first"),
        ({"input": "a", "output": [{"score": 1, "text": "b"}]}, "its answers are sorted by their scores"),
        ({"prompt": "a", "answers": ["b", "c"], "scores": [1, 2]}, "its answers are sorted by their scores"),
        ({"chosen": SAID, "rejected": SAID}, "what both begin with is the prompt"),
        ({"prompt": "a", "test": "b"}, "its other columns are for the reward function"),
    ],
)
def test_detection_says_what_it_assumes(format_of, row, note):
    assert format_of(row).why.endswith(f"; {note}")


def test_a_prompts_other_columns_are_not_called_unread(format_of):
    assert format_of({"prompt": "a", "test": "b"}).ignored == ()


def test_every_format_a_recipe_may_name_has_a_shape():
    assert {shape.name for shape in SHAPES} == set(FormatName.__args__)


def test_a_recipe_may_name_the_format(read, format_of):
    row = {"text": "x", "label": "spam"}
    assert read([row])[0].kind == "label"
    assert read([row], format="text")[0].kind == "text"
    assert format_of(row, format="text").why == "line 1 has text; the recipe names the format"


def test_a_recipe_may_name_columns(read, format_of):
    row = {"text": "a", "reply": "b", "prompt": "not this"}
    columns = {"prompt": "text", "completion": "reply"}
    (record,) = read([row], columns=columns)
    assert [turn.content for turn in record.conversation] == ["a", "b"]
    found = format_of(row, columns=columns)
    assert (found.name, found.columns, found.ignored) == ("prompt_completion", ("text", "reply"), ("prompt",))


def test_rows_with_other_keys_are_read_by_the_same_names(read):
    rows = [{"q": "a", "a": "b"}, {"id": 1, "a": "d", "q": "c"}]
    records = read(rows, columns={"query": "q", "response": "a"})
    assert [record.completion for record in records] == ["b", "d"]


def test_a_named_column_that_is_missing_is_told_with_the_nearest(refusal):
    told = refusal([{"question": "a", "reply": "b"}], columns={"prompt": "qestion", "completion": "reply"})
    assert told.startswith(
        "a.jsonl:1: columns.prompt: the recipe names the column 'qestion', which is not there "
        "(did you mean 'question'?)\n  expected: question, reply"
    )


def test_a_name_that_is_no_formats_column_is_told_with_the_nearest(refusal):
    told = refusal([{"text": "a"}], columns={"promt": "text"})
    assert "columns: the recipe names 'promt', which is no format's column (did you mean 'prompt'?)" in told


def test_a_named_format_that_is_not_there_is_told_with_what_it_lacks(refusal):
    told = refusal([{"text": "a"}], format="preference")
    assert told.startswith(
        "a.jsonl:1: no preference record, which the recipe says it is: it has the keys text (it lacks chosen, rejected)"
    )


def test_optional_and_unread_columns_may_come_and_go(read):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "input": None, "id": 1}]
    assert len(read(rows)) == 2


def test_equal_content_is_one_conversation_in_every_format_and_place(read):
    alpaca = read([{"instruction": "Hi", "output": "Yo"}])[0]
    pair = read([{"prompt": "Hi", "completion": "Yo"}])[0]
    asked = read([{"question": "Hi", "answer": "Yo"}])[0]
    messages = read([{"messages": SAID}, {"messages": SAID}])[1]
    shared = read([{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}])[0]
    other = read([{"prompt": "H", "completion": "iYo"}])[0]
    assert len({record.conversation for record in (alpaca, pair, asked, messages, shared)}) == 1
    assert other.conversation != pair.conversation


def test_unknown_columns_are_told_with_the_formats_known(refusal):
    told = refusal([{"foo": [], "bar": ""}])
    assert told.startswith("a.jsonl:1: no known format has the keys foo, bar\n")
    for known in ("messages (messages)", "alpaca (instruction, output)", "prompt_completion (prompt, completion)"):
        assert known in told
    assert "fix: name the columns in the recipe, such as `columns: {prompt: question, completion: reply}`" in told


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"message": []}, "('message': did you mean 'messages'?)"),
        ({"instruction": "Hi", "respons": "Yo"}, "('respons': did you mean 'response'?)"),
        ({"txt": "x"}, "('txt': did you mean 'text'?)"),
        ({"chosen": "x", "rejcted": "y"}, "('rejcted': did you mean 'rejected'?)"),
        ({"instruction": "Hi", "reply": "Yo"}, "(alpaca lacks output)"),
        ({"chosen": "Hi"}, "(preference lacks rejected)"),
        ({"question": "Hi"}, "(query_response lacks response)"),
        ({"sentiment": "good"}, "(classification lacks text)"),
    ],
)
def test_a_half_known_format_is_told_with_what_it_lacks(refusal, row, hint):
    assert hint in refusal([row]).splitlines()[0]


def test_mixed_formats_are_told_at_the_first_line_that_differs_with_both_key_sets(refusal):
    told = refusal([{"text": "x"}, {"text": "y"}, {"prompt": "Hi", "completion": "Yo"}])
    assert told.startswith(
        "a.jsonl:3: mixed formats in one file: this line has the keys prompt, completion (prompt_completion), "
        "while line 1 has text (text)"
    )


def test_mixed_formats_that_a_recipe_could_settle_say_how(refusal):
    told = refusal([{"text": "x"}, {"text": "y", "label": "spam"}])
    assert "(classification), while line 1" in told
    assert "fix: if all of it is text, say so: `format: text` in the recipe" in told


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [{"instruction": "Hi", "output": "Yo"}, {"instruction": "Hi", "ouput": "Yo"}],
            "output: this column is missing (did you mean 'ouput'?); the line has the keys instruction, ouput, while",
        ),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], "completion: this column is missing; the line has"),
        ([{"question": "a", "answer": "b"}, {"question": "a"}], "answer: this column is missing; the line has"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b"}], "rejected: this column is"),
        ([{"text": "a", "label": "b"}, {"text": "a"}], "label: this column is missing; the line has"),
    ],
)
def test_a_missing_column_is_told_with_line_and_name(refusal, rows, told):
    assert refusal(rows).startswith(f"a.jsonl:2: {told}")


def test_a_bad_first_row_does_not_decide_the_format_where_bad_rows_are_left_out(write):
    file = write("a.jsonl", [{"foo": 1}, {"text": "x"}])
    told: list[UserError] = []
    format_, records = read_file(file, on_error=told.append)
    assert (format_.name, [record.line for record in records], [error.line for error in told]) == ("text", [2], [1])


def test_a_file_in_no_format_at_all_is_one_mistake(write):
    file = write("a.jsonl", [{"foo": 1}] * 50)
    told: list[UserError] = []
    with pytest.raises(UserError, match="a.jsonl:1: no known format"):
        read_file(file, on_error=told.append)
    assert told == []


def test_a_bad_row_is_told_and_the_next_is_read(write):
    file = write("a.jsonl", [{"text": "x"}, {"text": 1}, {"txt": "y"}, {"text": "z"}])
    told: list[UserError] = []
    records = list(as_records(file, read_rows(file), DataSpec(path=str(file)), told.append)[1])
    assert ([record.line for record in records], [error.line for error in told]) == ([1, 4], [2, 3])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"value": 0.5}, "value: numbers alone (LMFlow's float_only): no text to learn"),
        ({"text": "x", "images": ["a.png"]}, "images: not read: only text is"),
        ({"messages": SAID, "images": ["a.png"]}, "images: not read: only text is"),
        ({"prompt": "a", "chosen": "b"}, "chosen: prompt with this column is half a preference"),
        ({"messages": SAID, "rejected": "b"}, None),
        ({"question": "a", "answer": "b", "kto_tag": True}, "kto_tag: query_response with this column is half a"),
    ],
)
def test_what_would_be_misread_is_refused(refusal, read, row, told):
    if told is None:
        assert read([row])[0].kind == "preference"
    else:
        assert refusal([row]).startswith(f"a.jsonl:1: {told}")


def test_what_would_be_misread_is_left_unread_where_the_recipe_names_the_format(read):
    assert read([{"text": "x", "images": ["a.png"]}], format="text")[0].text == "x"


def test_a_nul_is_no_text(refusal):
    assert "a.jsonl:1: text: a NUL character, which is no text (character 3)" in refusal([{"text": "ab\0c"}])
