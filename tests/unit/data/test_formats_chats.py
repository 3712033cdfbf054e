"""Conversations to records: OpenAI's messages and ShareGPT, their tools, their loss marks, and their mistakes."""

from __future__ import annotations

import json

import pytest

from fettle.data.record import Message

WEATHER = {"name": "weather", "description": "Of a town.", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Saltwick"}}}


def said(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def shared(*pairs):
    return [{"from": role, "value": content} for role, content in pairs]


def test_messages_learn_the_assistants_turns_only(read):
    turns = said(("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo"), ("user", "Bye"), ("assistant", "Ta"))
    (record,) = read([{"messages": turns}])
    assert record.kind == "messages"
    assert [turn.bears_loss for turn in record.conversation] == [False, False, True, False, True]


def test_typed_text_parts_are_joined_line_by_line(read):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "value": "yo"}]}]
    (record,) = read([{"messages": turns}])
    assert [turn.content for turn in record.conversation] == ["one\ntwo", "yo"]


def test_a_system_column_comes_first_unless_the_messages_have_their_own(read):
    turns = said(("user", "Hi"), ("assistant", "Yo"))
    with_own = said(("system", "Be long."), *(("user", "Hi"), ("assistant", "Yo")))
    first, second = read([{"messages": turns, "system": "Be brief."}, {"messages": with_own, "system": "Be brief."}])
    assert [record.conversation[0] for record in (first, second)] == [
        Message("system", "Be brief."),
        Message("system", "Be long."),
    ]


@pytest.mark.parametrize("tools", [[WEATHER], json.dumps([WEATHER]), [{"type": "function", "function": WEATHER}]])
def test_bare_tool_schemas_are_wrapped_and_json_is_read(read, tools):
    (record,) = read([{"messages": said(("user", "Hi"), ("assistant", "Yo")), "tools": tools}])
    assert record.tools == ({"type": "function", "function": WEATHER},)


@pytest.mark.parametrize("tools", ["", "[]", [], None])
def test_empty_tools_are_none(read, tools):
    (record,) = read([{"messages": said(("user", "Hi"), ("assistant", "Yo")), "tools": tools}])
    assert record.tools == ()


@pytest.mark.parametrize("arguments", [{"town": "Saltwick"}, '{"town": "Saltwick"}'])
def test_a_tool_calls_arguments_are_an_object_as_serving_has_it(read, arguments):
    calls = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}]
    turns = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "no", "name": "weather", "tool_call_id": "c1"},
        {"role": "assistant", "content": "No."},
    ]
    (record,) = read([{"messages": turns}])
    assert record.conversation[1:3] == (
        Message("assistant", "", bears_loss=True, tool_calls=({**CALL, "id": "c1"},)),
        Message("tool", "no", name="weather", tool_call_id="c1"),
    )


@pytest.mark.parametrize("arguments", ["", None, {}])
def test_a_call_without_arguments_has_an_empty_object(read, arguments):
    call = {"function": {"name": "weather", "arguments": arguments}}
    (record,) = read([{"messages": [{"role": "assistant", "tool_calls": [call]}]}])
    assert record.conversation[0].tool_calls[0]["function"]["arguments"] == {}


def test_openais_older_function_call_is_a_tool_call(read):
    call = {"name": "weather", "arguments": '{"town": "Saltwick"}'}
    turns = [{"role": "assistant", "content": None, "function_call": call}, {"role": "function", "content": "no"}]
    (record,) = read([{"messages": turns}])
    assert record.conversation == (Message("assistant", "", True, (CALL,)), Message("tool", "no"))


@pytest.mark.parametrize("mark", [{"train": False}, {"loss": False}, {"loss_weight": 0.0}, {"weight": 0}])
def test_an_answer_marked_so_is_not_learned(read, mark):
    turns = [*said(("user", "a")), {"role": "assistant", "content": "b", **mark}, *said(("assistant", "c"))]
    (record,) = read([{"messages": turns}])
    assert [turn.bears_loss for turn in record.conversation] == [False, False, True]


def test_marks_that_change_nothing_are_accepted(read):
    turns = [
        {"role": "user", "content": "a", "loss_weight": 0.0, "train": False},
        {"role": "assistant", "content": "b", "loss_weight": 1.0, "train": True, "loss": None},
    ]
    (record,) = read([{"messages": turns}])
    assert [turn.bears_loss for turn in record.conversation] == [False, True]


def test_sharegpt_with_its_roles_for_tools_is_openais_conversation(read):
    call = json.dumps({"name": "weather", "arguments": {"town": "Saltwick"}})
    turns = shared(("human", "Rain?"), ("function_call", call), ("observation", "no"), ("gpt", "No."))
    (record,) = read([{"conversations": turns, "system": "Be brief.", "tools": json.dumps([WEATHER])}])
    assert record.conversation == (
        Message("system", "Be brief."),
        Message("user", "Rain?"),
        Message("assistant", "", True, (CALL,)),
        Message("tool", "no"),
        Message("assistant", "No.", True),
    )
    assert record.tools == ({"type": "function", "function": WEATHER},)


def test_words_before_calls_and_several_calls_are_one_turn(read):
    call = {"name": "weather", "arguments": {"town": "Saltwick"}}
    turns = shared(("gpt", "I look."), ("function_call", json.dumps(call)), ("function_call", json.dumps([call, call])))
    (record,) = read([{"conversations": turns}])
    assert record.conversation == (Message("assistant", "I look.", True, (CALL, CALL, CALL)),)


@pytest.mark.parametrize("column", ["conversations", "conversation"])
@pytest.mark.parametrize(
    "turns",
    [
        said(("user", "Hi"), ("assistant", "Yo")),
        shared(("user", "Hi"), ("model", "Yo")),
        [{"human": "Hi", "assistant": "Yo"}],
    ],
)
def test_sharegpts_dialects_are_one(read, column, turns):
    (record,) = read([{column: turns}])
    assert record.conversation == (Message("user", "Hi"), Message("assistant", "Yo", True))


def test_a_recipe_may_name_roles_and_the_keys_of_a_message(read):
    turns = [{"speaker": "Customer", "says": "Hi"}, {"speaker": "Agent", "says": "Yo"}]
    (record,) = read(
        [{"talk": turns}],
        columns={"messages": "talk", "role": "speaker", "content": "says"},
        roles={"user": "Customer", "assistant": "Agent"},
    )
    assert record.conversation == (Message("user", "Hi"), Message("assistant", "Yo", True))


def test_a_role_that_is_none_is_told(refusal):
    told = refusal([{"messages": said(("assistant", "Yo"))}], roles={"usr": "Customer"})
    assert "roles: the recipe names 'usr', which is no role (did you mean 'user'?)" in told


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ("Hi", "messages: text, not a list of messages"),
        ([], "messages: an empty list"),
        (["Hi"], "messages.0: text, not a message"),
        ([{"role": "user"}], "messages.0.content: this key is missing"),
        ([{"role": "user", "contents": "Hi"}], "messages.0.content: this key is missing (did you mean 'contents'?)"),
        ([{"rôle": "user", "content": "Hi"}], "messages.0.role: this key is missing (did you mean 'rôle'?)"),
        ([{"role": "asistant", "content": ""}], "unknown role 'asistant' (did you mean 'assistant'?)"),
        ([{"role": "Customer", "content": ""}], "unknown role 'Customer'"),
        ([{"role": None, "content": ""}], "unknown role None"),
        ([{"role": "user", "content": None}], "messages.0.content: null, not text"),
        ([{"role": "user", "content": {"a": 1}}], "messages.0.content: an object, not text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "a part of type 'image_url'; only text is read"),
        (said(("user", "Hi")), "messages: no assistant message, only user: nothing to learn"),
        ([{"role": "assistant", "content": "x", "train": False}], "every assistant turn is marked as not learned"),
        ([{"role": "assistant", "content": "x", "weight": 0.5}], "messages.0.weight: 0.5, a part of a weight"),
        ([{"role": "assistant", "content": "x", "loss": "no"}], "messages.0.loss: 'no'"),
        ([{"role": "user", "content": "x", "train": True}], "only assistant turns are learned"),
        ([{"role": "user", "content": "x", "tool_calls": [CALL]}], "messages.0: the user calls a tool"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "0.tool_calls.0.function: no name of the tool"),
        ([{"role": "assistant", "tool_calls": ["x"]}], "messages.0.tool_calls.0: text, not a call"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{'a': 1}"}}]}],
            "messages.0.tool_calls.0.function.arguments: text that is not valid JSON: object keys must be strings",
        ),
        (
            [{"role": "assistant", "function_call": {"name": "f", "arguments": "[1]"}}],
            "messages.0.function_call.arguments: a list, not an object",
        ),
    ],
)
def test_a_mistake_in_a_conversation_is_told_with_line_and_path(refusal, turns, told):
    message = refusal([{"messages": turns}])
    assert message.startswith("a.jsonl:1: ") and told in message and "expected: " in message


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"conversations": shared(("human", "Hi"), ("function_call", "weather()"))},
            "conversations.1.value: text that is not valid JSON: ",
        ),
        ({"conversations": shared(("human", "Hi"), ("function_call", "[]"))}, "conversations.1.value: an empty list"),
        ({"conversations": [{"from": "human", "vlaue": "Hi"}]}, "value: this key is missing (did you mean 'vlaue'?)"),
        ({"conversation": [{"human": "Hi", "assistant": "Yo"}, {"human": "Hi"}]}, "conversation.1.assistant: null"),
        ({"conversations": shared(("gpt", "Hi")), "tools": "[{"}, "tools: text that is not valid JSON: "),
        (
            {"conversations": shared(("gpt", "Hi")), "tools": [{"x": 1}]},
            "tools.0: an object without a name, not a tool",
        ),
        ({"conversations": shared(("gpt", "Hi")), "tools": 3}, "tools: a number, not a list of tools"),
        ({"conversations": shared(("gpt", "Hi")), "system": 3}, "system: a number, not text"),
    ],
)
def test_a_mistake_in_a_sharegpt_row_is_told_with_line_and_path(refusal, row, told):
    message = refusal([row])
    assert message.startswith("a.jsonl:1: ") and told in message and "expected: " in message
