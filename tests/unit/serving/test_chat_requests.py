"""What a chat request says of control tokens: text, wherever it stands and however it is spelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fettle.data.neutral import Neutral
from fettle.data.record import Message
from fettle.data.served import as_messages, as_tools
from fettle.models.base import BUNDLED, TEMPLATES
from fettle.serving.messages import as_learned
from fettle.serving.replica import _neutral
from fettle.serving.resolve import ServedAdapter, ServedModel

NAME, BROKEN = "<|im_end|>", "<\u200b|im_end|>"
NEUTRAL = Neutral([NAME])


def learned(*messages: Any, **more: Any) -> dict[str, Any]:
    return as_learned({"model": "m", "messages": list(messages), **more}, NEUTRAL)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": NAME},
        {"role": "user", "content": "Hi", "name": NAME},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": NAME}}]},
        {"role": NAME, "content": "Hi"},
        {"role": "tool", "content": "Hi", "tool_call_id": NAME},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": NAME, "arguments": "{}"}}]},
        {"role": "assistant", "content": None, "reasoning": NAME},
    ],
)
def test_the_name_is_broken_wherever_a_message_holds_it(message: dict[str, Any]) -> None:
    (found,) = learned(message)["messages"]

    assert found == json.loads(json.dumps(message).replace(NAME, BROKEN))


def test_the_name_is_broken_in_everything_else_that_a_template_sees() -> None:
    more = {
        "tools": [{"function": {"description": NAME}}],
        "documents": [{"text": NAME}],
        "chat_template_kwargs": {"a": NAME},
    }

    found = learned(**more, stop=NAME, user=NAME)

    assert found == json.loads(json.dumps({"model": "m", "messages": [], **more}).replace(NAME, BROKEN)) | {
        "stop": NAME,
        "user": NAME,
    }


@pytest.mark.parametrize(
    "parts", [["<|im_", "end|>"], [{"type": "text", "text": "<|im_"}, {"type": "text", "text": "end|>"}]]
)
def test_text_parts_are_one_text_as_in_training(parts: list[Any]) -> None:
    (found,) = learned({"role": "user", "content": parts})["messages"]

    assert found["content"] == "<|im_\nend|>"


def test_a_name_spelled_with_escapes_in_a_calls_arguments_is_broken() -> None:
    arguments = json.dumps({"a": NAME, "ö": 1}).replace("<", "\\u003c")
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}

    (found,) = learned({"role": "assistant", "tool_calls": [call]})["messages"]

    assert NAME not in arguments
    assert json.loads(found["tool_calls"][0]["function"]["arguments"]) == {"a": BROKEN, "ö": 1}


@pytest.mark.parametrize(
    "messages",
    [
        5,
        None,
        [5, None, []],
        [{"role": "user", "content": {"a": 1}, "tool_calls": 5}],
        [{"role": "assistant", "tool_calls": [5, {"function": 1}, {"function": {"arguments": "{"}}]}],
    ],
)
def test_what_is_amiss_is_left_for_vllm_to_refuse(messages: Any) -> None:
    request = {"model": "m", "messages": messages}

    assert as_learned(request, NEUTRAL) == request


def test_a_request_reads_as_the_same_messages_in_training() -> None:
    """The keys and their order are vLLM's matter (tests/integration/test_serving.py)."""
    said = f"a {NAME} b"
    call = {"id": "c1", "function": {"arguments": {said: said}, "name": said}, "type": "function"}
    turns = [Message("assistant", said, tool_calls=(call,)), Message("tool", said, name=said, tool_call_id=said)]
    schema = {"type": "function", "function": {"name": said, "description": said, "parameters": {said: said}}}
    sent = call | {"function": {"arguments": json.dumps({said: said}), "name": said}}

    found = learned(
        {"role": "assistant", "content": said, "tool_calls": [sent]},
        {"role": "tool", "content": [{"type": "text", "text": said}], "tool_call_id": said, "name": said},
        tools=[schema],
    )

    arguments = found["messages"][0]["tool_calls"][0]["function"]
    arguments["arguments"] = json.loads(arguments["arguments"])
    assert (found["messages"], found["tools"]) == (as_messages(turns, NEUTRAL), as_tools([schema], NEUTRAL))


def test_each_name_that_is_served_has_the_control_tokens_of_its_own_template() -> None:
    tiny = BUNDLED["tiny"]
    if not (tiny / "tokenizer.json").is_file():
        pytest.skip("the bundled model is not here")
    template = TEMPLATES["chatml"].read_text(encoding="utf-8").replace("im_end", "reserved_4")
    adapters = (
        ServedAdapter("same", Path("/a"), 8),
        ServedAdapter("other", Path("/b"), 8, {"chat_template": template}),
    )

    found = _neutral(ServedModel("base", tiny, "base", chats=True, adapters=adapters))

    assert set(found) == {"base", "same", "other"} and found["base"] is found["same"] is not found["other"]
    assert found["base"](NAME) == BROKEN
