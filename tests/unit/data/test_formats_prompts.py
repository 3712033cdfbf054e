"""Questions with their answers, prompts, documents and labels to records, and their mistakes."""

from __future__ import annotations

import pytest

from fettle.data.record import Message


def test_raw_text_is_one_text_record_a_row(read):
    (record,) = read([{"text": "Once upon a time", "id": 7}])
    assert (record.kind, record.text, record.line) == ("text", "Once upon a time", 1)


def test_prompt_and_completion_as_text_become_a_question_and_its_answer(read):
    (record,) = read([{"prompt": "2+2=", "completion": "4"}])
    assert record.conversation == (Message("user", "2+2="), Message("assistant", "4", bears_loss=True))
    assert record.prompt is not None and record.prompt.plain == ("2+2=",)


def test_of_prompt_and_completion_as_messages_only_the_completion_is_learned(read):
    prompt = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    (record,) = read([{"prompt": prompt, "completion": [{"role": "assistant", "content": "d"}]}])
    assert [turn.content for turn in record.conversation if turn.bears_loss] == ["d"]


@pytest.mark.parametrize("answer", ["output", "response"])
@pytest.mark.parametrize("given", ["input", "context"])
def test_alpaca_asks_with_instruction_and_input(read, answer, given):
    (record,) = read([{"instruction": "Add.", given: "2 2", answer: "4"}])
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


def test_self_instructs_one_instance_is_alpaca(read):
    (record,) = read([{"id": "t0", "instruction": "Add.", "instances": [{"input": "2 2", "output": "4"}]}])
    (alpaca,) = read([{"instruction": "Add.", "input": "2 2", "output": "4"}])
    assert (record.prompt, record.completion) == (alpaca.prompt, alpaca.completion)


@pytest.mark.parametrize("asked", ["query", "prompt", "input", "question", "problem"])
@pytest.mark.parametrize("answered", ["response", "answer", "output", "target", "targets", "solution", "content"])
def test_a_question_and_its_answer_go_by_many_names(read, asked, answered):
    (record,) = read([{asked: "2+2?", answered: "4"}])
    assert record.conversation == (Message("user", "2+2?"), Message("assistant", "4", bears_loss=True))


@pytest.mark.parametrize(
    ("asked", "answered"),
    [("document", "summary"), ("article", "highlights"), ("dialogue", "summary"), ("source", "target")],
)
def test_so_do_a_document_and_its_summary(read, asked, answered):
    (record,) = read([{"id": 1, "title": "T", asked: "It rains. We wait.", answered: "It rains."}])
    assert [turn.content for turn in record.conversation] == ["It rains. We wait.", "It rains."]


def test_query_response_takes_system_context_and_history(read):
    row = {"query": "Bye", "response": "Ta", "system": "Be brief.", "context": "It is late.", "history": [["Hi", "Yo"]]}
    (record,) = read([row])
    assert [(turn.role, turn.content) for turn in record.conversation] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Yo"),
        ("user", "Bye\nIt is late."),
        ("assistant", "Ta"),
    ]
    assert record.prompt.plain == ("Be brief.\n\nHi\n", "Yo", "Bye\nIt is late.\n")


def test_of_several_right_answers_the_first_is_learned_and_all_are_kept(read):
    (record,) = read([{"source": ["It rains.", "We wait."], "target": ["Rain.", "Waiting."]}])
    assert [turn.content for turn in record.conversation] == ["It rains. We wait.", "Rain."]
    assert record.columns["references"] == ["Rain.", "Waiting."]


def test_a_number_is_an_answer_in_its_digits(read):
    assert [
        record.completion for record in read([{"question": "6*7?", "answer": 42}, {"question": "1/2?", "answer": 0.5}])
    ] == ["42", "0.5"]


def test_a_question_keeps_its_rows_columns_for_a_reward_function(read):
    row = {"question": "2+2?", "answer": "4", "level": 1}
    assert read([row])[0].columns == row


def test_the_answer_that_shows_its_work_is_learned_where_there_are_two(read):
    assert read([{"problem": "2+2?", "answer": "4", "solution": "2 and 2 are 4."}])[0].completion == "2 and 2 are 4."


@pytest.mark.parametrize("prompt", ["2+2?", [{"role": "user", "content": "2+2?"}]])
def test_a_prompt_keeps_the_columns_of_its_row(read, prompt):
    row = {"data_source": "x", "prompt": prompt, "reward_model": {"style": "rule", "ground_truth": "4"}}
    (record,) = read([row])
    assert (record.kind, record.prompt.turns, record.columns) == ("prompt", (Message("user", "2+2?"),), row)


def test_a_prompt_as_text_stays_as_it_is_and_a_question_gets_a_line_end(read):
    rows = [{"prompt": "def f():", "test": "f()"}], [{"question": "2+2?", "answer": "4"}]
    assert [read(row)[0].prompt.plain for row in rows] == [("def f():",), ("2+2?\n",)]


def test_messages_with_an_answer_beside_them_are_a_prompt_with_its_answer(read):
    (record,) = read([{"prompt": [{"role": "user", "content": "2+2?"}], "answer": "4"}])
    assert (record.kind, record.completion) == ("prompt_completion", "4")


@pytest.mark.parametrize("column", ["label", "labels", "category", "class", "intent", "sentiment"])
@pytest.mark.parametrize("text", ["text", "sentence", "review", "content"])
def test_a_text_and_its_label_go_by_many_names(read, text, column):
    (record,) = read([{text: "Where is my card?", column: "card_arrival"}])
    assert (record.kind, record.text, record.label) == ("label", "Where is my card?", "card_arrival")


@pytest.mark.parametrize(("label", "word"), [(3, "3"), (3.0, "3"), (True, "true"), ("3", "3")])
def test_a_label_is_text(read, label, word):
    assert read([{"text": "x", "label": label}])[0].label == word


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": 5}, "text: a number, not text"),
        ({"prompt": "Hi", "completion": None}, "completion: null, not text"),
        ({"prompt": [], "completion": "Yo"}, "completion: prompt is a list and completion text"),
        (
            {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "user", "content": "b"}]},
            "completion: no assistant message, only user",
        ),
        ({"prompt": ["Hi"], "answer": []}, "answer: an empty list"),
        ({"instruction": ["Hi"], "output": "Yo"}, "instruction: a list, not text"),
        ({"instruction": "a", "output": "b", "history": "x"}, "history: text, not a list of pairs"),
        ({"instruction": "a", "output": "b", "history": ["x"]}, "history.0: not a pair of question and answer"),
        ({"instruction": "a", "output": "b", "history": [["x", 1]]}, "history.0.1: a number, not text"),
        ({"instruction": "a", "instances": [{"output": "b"}] * 2}, "instances: 2 instances in one row"),
        ({"instruction": "a", "instances": [{"input": "b"}]}, "instances.0: an instance without output"),
        ({"instruction": "a", "instances": "b"}, "instances: text, not a list of instances"),
        ({"question": "a", "answer": None}, "answer: null, not text"),
        ({"question": "a", "answer": ["b", 1]}, "answer.1: a number, not text"),
        ({"source": ["a", None], "target": ["b"]}, "source.1: null, not text"),
        ({"prompt": 3, "test": "x"}, "prompt: a number, not text"),
        ({"prompt": [], "test": "x"}, "prompt: an empty list"),
        ({"text": "x", "label": None}, "label: null, not a label"),
        ({"text": "x", "label": ["a", "b"]}, "label: a list, not a label"),
        ({"text": "x", "label": 0.5}, "label: the number 0.5, not a label"),
        ({"text": None, "label": "a"}, "text: null, not text"),
    ],
)
def test_a_wrong_field_is_told_with_line_and_path(refusal, row, told):
    message = refusal([row])
    assert message.startswith(f"a.jsonl:1: {told}") and "expected: " in message
