"""Preferences, unpaired answers and steps to records in every published spelling, and their mistakes."""

from __future__ import annotations

import pytest

from fettle.data.record import Message

USER, SYSTEM = Message("user", "2+2?"), Message("system", "Be brief.")


def said(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def shared(*pairs):
    return [{"from": role, "value": content} for role, content in pairs]


def answer(*contents):
    return tuple(Message("assistant", content, bears_loss=True) for content in contents)


ASKED, GOOD, BAD = ("user", "2+2?"), ("assistant", "4"), ("assistant", "5")
HH = "\n\nHuman: 2+2?\n\nAssistant: "


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"question": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": said(ASKED), "chosen": said(GOOD), "rejected": said(BAD)},
        {"prompt": "2+2?", "chosen": said(GOOD), "rejected": said(BAD)},
        {"chosen": said(ASKED, GOOD), "rejected": said(ASKED, BAD)},
        {"prompt": "2+2?", "messages": said(ASKED, GOOD), "chosen": said(ASKED, GOOD), "rejected": said(ASKED, BAD)},
        {"chosen": HH + "4", "rejected": HH + "5"},
        {"prompt": HH, "chosen": "4", "rejected": "5"},
        {"instruction": "2+2?", "chosen": "4", "rejected": "5"},
        {"instruction": "2+2?", "input": "", "output": ["4", "5"]},
        {
            "conversations": shared(("human", "2+2?")),
            "chosen": shared(("gpt", "4"))[0],
            "rejected": shared(("gpt", "5"))[0],
        },
        {"messages": said(ASKED), "chosen": said(GOOD)[0], "rejected": said(BAD)[0]},
        {"messages": said(ASKED, GOOD), "rejected_response": "5"},
        {"messages": said(ASKED, GOOD), "rejected_messages": said(ASKED, BAD)},
        {"chosen": {"messages": said(ASKED, GOOD)}, "rejected": {"messages": said(ASKED, BAD)}},
        {"input": "2+2?", "output": ["4", "5"]},
        {"input": "2+2?", "output": [{"score": 0.1, "text": "5"}, {"score": 0.9, "text": "4"}]},
        {"prompt": "2+2?", "answers": ["4", "5"]},
        {"prompt": "2+2?", "answers": ["5", "4"], "scores": [1, 2]},
    ],
)
def test_every_spelling_of_a_preference_means_the_same(read, row):
    (record,) = read([row])
    assert (record.kind, record.prompt.turns) == ("preference", (USER,))
    assert [one.turns for one in record.answers] == [answer("4"), answer("5")]


def test_a_system_column_and_a_margin_are_read(read):
    (record,) = read([{"prompt": "2+2?", "chosen": "4", "rejected": "5", "system": "Be brief.", "margin": 0.5}])
    assert (record.prompt.turns, record.margin) == ((SYSTEM, USER), 0.5)


def test_lmflows_conversations_keep_their_system_and_tools(read):
    chosen = {"conversation_id": 1, "system": "Be brief.", "tools": [{"name": "f"}], "messages": said(ASKED, GOOD)}
    rejected = chosen | {"messages": said(ASKED, BAD)}
    (record,) = read([{"chosen": chosen, "rejected": rejected}])
    assert record.prompt.turns == (SYSTEM, USER)
    assert record.tools == ({"type": "function", "function": {"name": "f"}},)


@pytest.mark.parametrize("names", [("score_chosen", "score_rejected"), ("chosen_score", "rejected_score")])
def test_scores_go_with_their_answers(read, names):
    (record,) = read([{"prompt": "a", "chosen": "b", "rejected": "c", names[0]: 9, names[1]: "2.5"}])
    assert [one.score for one in record.answers] == [9.0, 2.5]


def test_scored_answers_are_sorted_the_best_first(read):
    (record,) = read([{"input": "a", "output": [{"score": s, "text": f"{s}"} for s in (1, 3, 2)]}])
    assert [(one.turns[0].content, one.score) for one in record.answers] == [("3", 3.0), ("2", 2.0), ("1", 1.0)]


def test_past_answers_in_a_preference_are_not_learned(read):
    past = said(("user", "Hi"), ("assistant", "Yo"))
    records = [
        *read([{"messages": [*past, *said(ASKED, GOOD)], "rejected_response": "5"}]),
        *read([{"chosen": [*past, *said(ASKED, GOOD)], "rejected": [*past, *said(ASKED, BAD)]}]),
        *read([{"instruction": "2+2?", "chosen": "4", "rejected": "5", "history": [["Hi", "Yo"]]}]),
    ]
    for record in records:
        assert record.prompt.turns == (Message("user", "Hi"), Message("assistant", "Yo"), USER)
    assert len(records[-1].prompt.plain) == 1


def test_answers_of_several_turns_part_where_they_differ(read):
    again = said(("user", "Sure?"), ("assistant", "Yes."))
    (record,) = read([{"chosen": said(ASKED, GOOD) + again, "rejected": said(ASKED, BAD)}])
    assert record.answers[0].turns == (*answer("4"), Message("user", "Sure?"), *answer("Yes."))
    assert record.answers[1].turns == answer("5")


@pytest.mark.parametrize("same", [said(ASKED, GOOD), HH + "4"])
def test_equal_answers_are_still_two(read, same):
    (record,) = read([{"chosen": same, "rejected": same}])
    assert (record.prompt.turns, record.answers[0]) == ((USER,), record.answers[1])


def test_an_hh_prompt_without_a_template_is_the_text_itself(read):
    text = "\n\nHuman: Hi\n\nAssistant: Yo\n\nHuman: 2+2?\n\nAssistant: "
    (record,) = read([{"chosen": text + "4", "rejected": text + "5"}])
    assert record.prompt.plain == (text,)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "completion": "4", "label": True},
        {"prompt": "2+2?", "response": "4", "label": 1},
        {"prompt": said(ASKED), "completion": said(GOOD), "label": True},
        {"messages": said(ASKED, GOOD), "label": True},
        {"messages": said(ASKED, GOOD), "kto_tag": "true"},
        {"conversations": shared(("human", "2+2?"), ("gpt", "4")), "kto_tag": True},
        {"instruction": "2+2?", "input": "", "output": "4", "kto_tag": True},
    ],
)
def test_every_spelling_of_an_unpaired_answer_means_the_same(read, row):
    good, bad = read([row, {**row, ("label" if "label" in row else "kto_tag"): False}])
    assert (good.kind, good.prompt.turns, good.label, bad.label) == ("unpaired", (USER,), True, False)
    assert [one.turns for one in good.answers] == [answer("4")]


def test_the_judged_answer_is_the_conversations_last(read):
    turns = said(("user", "Hi"), ("assistant", "Yo"), ASKED, GOOD)
    (record,) = read([{"messages": turns, "label": False}])
    assert record.prompt.turns == (Message("user", "Hi"), Message("assistant", "Yo"), USER)
    assert record.answers[0].turns == answer("4")


def test_steps_have_a_label_each(read):
    (record,) = read([{"prompt": "2+2?", "completions": ["2 and 2", "are 5"], "labels": [True, False]}])
    assert (record.kind, record.prompt.turns) == ("stepwise", (USER,))
    assert (record.steps, record.label) == (("2 and 2", "are 5"), (True, False))


PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({**PAIR, "rejected": None}, "rejected: null, not an answer"),
        ({**PAIR, "chosen": []}, "chosen: an empty list"),
        ({**PAIR, "rejected": said(ASKED)}, "rejected: an answer that begins with a turn of the user"),
        ({**PAIR, "margin": "much"}, "margin: 'much', not a number"),
        ({**PAIR, "score_chosen": True}, "score_chosen: true or false, not a number"),
        ({"chosen": "b", "rejected": "c"}, "chosen: text without a prompt: no `prompt` column, and no turns marked"),
        (
            {"chosen": said(ASKED, GOOD), "rejected": said(("user", "3+3?"), BAD)},
            "rejected: the chosen and the rejected",
        ),
        (
            {"chosen": said(ASKED, GOOD), "rejected": said(ASKED)},
            "rejected: the chosen and the rejected conversation do",
        ),
        ({"messages": said(ASKED), "rejected_response": "5"}, "messages: the last turn is the user's: no answer to"),
        ({"messages": said(GOOD), "label": True}, "messages: only the assistant speaks: no question"),
        ({"messages": said(ASKED, GOOD), "label": "spam"}, "label: 'spam', neither true nor false"),
        ({"prompt": "a", "completion": "b", "label": None}, "label: null, neither true nor false"),
        ({"input": "a", "output": ["b"]}, "output: 1 answer: nothing to prefer"),
        ({"input": "a", "output": [{"score": 1, "text": "b"}, "c"]}, "output: only some of the answers have a score"),
        ({"input": "a", "output": [{"score": 1, "txt": "b"}, "c"]}, "output.0.text: null, not text"),
        ({"prompt": "a", "answers": ["b", "c"], "scores": [1]}, "scores: 1 scores for 2 answers"),
        ({"prompt": "a", "answers": "b", "scores": [1]}, "answers: text, not a list of answers"),
        ({"prompt": "a", "completions": ["b", "c"], "labels": [True]}, "labels: 1 labels for 2 steps"),
        ({"prompt": "a", "completions": "b", "labels": [True]}, "completions: text, not a list of texts"),
        ({"prompt": "a", "completions": [], "labels": []}, "completions: an empty list"),
        ({"prompt": "a", "completions": ["b"], "labels": [2]}, "labels.0: 2, neither true nor false"),
    ],
)
def test_a_wrong_field_is_told_with_line_and_path(refusal, row, told):
    message = refusal([row])
    assert message.startswith(f"a.jsonl:1: {told}") and "expected: " in message


def test_an_unclear_label_says_how_to_leave_it_unread(refusal):
    told = refusal([{"messages": said(ASKED, GOOD), "label": "spam"}])
    assert "fix: if 'label' does not say whether the answer is good: name the `format` in the recipe" in told
