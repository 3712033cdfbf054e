"""Tools in chats: rendered as vLLM's endpoint would have it, and never dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from fettle.data.chat import template_of
from fettle.data.measure import Measure
from fettle.data.neutral import Neutral
from fettle.data.record import Message, Record
from fettle.data.served import as_messages, as_tools
from fettle.errors import UserError
from fettle.models.base import resolve_template

PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ONLY_TALK = PLAIN.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'tool' %}")
CALL = {"type": "function", "function": {"name": "f", "arguments": {"b": 1}}}
TOOL = {"type": "function", "function": {"name": "f"}}
CALLED = Message("assistant", "", bears_loss=True, tool_calls=(CALL,))
REPLIED = Message("tool", "42", name="f", tool_call_id="c1")


def record(*turns: Message, tools=()) -> Record:
    asked = Message("user", "?")
    return Record(Path("a.jsonl"), 7, messages=(asked, *turns, Message("assistant", "Yo", True)), tools=tools)


def test_keys_of_calls_come_in_the_order_of_the_endpoint():
    call = {"extra": 1, "type": "function", "function": {"name": "f", "x": 2, "arguments": {"b": 1}}, "id": "c1"}
    (message,) = as_messages([Message("assistant", "", tool_calls=(call,))], Neutral(()))
    assert list(message) == ["role", "content", "tool_calls"]
    (found,) = message["tool_calls"]
    assert [list(found), list(found["function"])] == [["id", "function", "type", "extra"], ["arguments", "name", "x"]]


def test_only_a_tools_reply_has_an_id_and_names_are_kept():
    turns = [Message("user", "a", name="Bo", tool_call_id="c1"), REPLIED]
    assert as_messages(turns, Neutral(())) == [
        {"role": "user", "content": "a", "name": "Bo"},
        {"role": "tool", "content": "42", "tool_call_id": "c1", "name": "f"},
    ]


def test_schemas_have_the_keys_of_the_endpoint_and_no_others():
    schema = {"strange": 1, "function": {"extra": 1, "strict": True, "parameters": {"b": 1, "a": 2}, "name": "f"}}
    assert as_tools([schema], Neutral(())) == [
        {
            "type": "function",
            "function": {"name": "f", "description": None, "parameters": {"b": 1, "a": 2}, "strict": True},
        }
    ]
    assert as_tools((), Neutral(())) is None


@pytest.mark.parametrize(
    ("template", "turns", "what"), [(PLAIN, (CALLED,), "calls"), (ONLY_TALK, (REPLIED,), "replies")]
)
def test_a_template_without_tools_is_refused_for_records_with_them(make_tokenizer, template, turns, what):
    with pytest.raises(UserError) as caught:
        template_of(make_tokenizer(template)).render(record(*turns))
    told = str(caught.value)
    assert told.startswith(f"a.jsonl:7: the chat template leaves out tool {what}") and "chat_template: chatml" in told


def test_a_template_without_tools_serves_records_without(make_tokenizer):
    assert template_of(make_tokenizer(ONLY_TALK)).render(record()).text.endswith("Yo<|im_end|>\n")


@pytest.mark.parametrize(("template", "warnings"), [("plain", 1), ("chatml", 0)])
def test_schemas_that_the_template_leaves_out_are_warned_of(make_tokenizer, template, warnings):
    tokenizer = make_tokenizer(PLAIN if template == "plain" else resolve_template(template))
    measure = Measure(tokenizer, 1000)
    measure.special_in(record(tools=(TOOL,)))
    told = [warning for warning in measure.template_warnings() if "leaves out the tools" in warning]
    assert len(told) == warnings


def test_calls_whose_end_is_not_a_last_answers_end_are_refused(make_tokenizer):
    """As where a call ends with a token of its own: the stretch would run on through the tool's reply."""
    template = PLAIN.replace(
        "m['content'] + '<|im_end|>\\n'",
        "(m['tool_calls'] | tojson + '<|end|>' if m['tool_calls'] else m['content'] + '<|im_end|>') + '\\n'",
    ).replace("m['role'] +", "('reply' if m['role'] == 'tool' else m['role']) +")
    with pytest.raises(UserError, match=r"a.jsonl:7: .*\(turn 2\): it does not end with <\|im_end\|>"):
        template_of(make_tokenizer(template)).render(record(CALLED, REPLIED))


@pytest.mark.parametrize("said", ["Hi", "<think>Hm.</think>Hi"])
def test_words_that_are_shown_are_not_told_as_left_out(make_tokenizer, said):
    turns = (Message("user", "1"), Message("assistant", said, True), Message("user", "2"), Message("assistant", "3"))
    template = template_of(make_tokenizer(resolve_template("qwen")))
    assert template.left_out(Record(Path("a"), 1, messages=turns)) is None


def test_words_that_a_template_leaves_out_are_told(make_tokenizer):
    template = template_of(make_tokenizer(ONLY_TALK.replace("!= 'tool'", "!= 'system'")))
    turns = (Message("system", "Be brief."), Message("user", "1"), Message("assistant", "2", True))
    assert template.left_out(Record(Path("a"), 1, messages=turns)) == "system"
